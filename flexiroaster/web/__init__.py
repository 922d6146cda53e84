"""What both APIs stand on: `authentication`, `request_guard`, the `thread_pool` that serves requests, and live results.

`streams` serves live results to any number of subscribers, `feeds` reads them once per process, `server` runs uvicorn.
"""
