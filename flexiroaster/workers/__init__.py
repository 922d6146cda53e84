"""Stage processes: the `local_runner` owns them, the `fork_server` forks them, a `worker` runs `attempt`s.

`protocol` is what both sides exchange; `log_capture` collects what a stage prints.
"""
