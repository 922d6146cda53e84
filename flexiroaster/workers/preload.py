"""Slow imports that every worker needs. The fork server imports this module first and forks workers afterwards.

Polars' allocator, jemalloc, returns memory to the system within seconds. A forked process has no jemalloc thread, and
there it returns large blocks at once: a worker would spend a third of its time on allocating them again. jemalloc reads
its options when polars is loaded. The options must not reach child processes of a stage, so the variable is deleted.
"""

from __future__ import annotations

import os

__all__: list[str] = []

_OPTIONS = "_RJEM_MALLOC_CONF"

if _OPTIONS in os.environ:
    import polars
else:
    os.environ[_OPTIONS] = "dirty_decay_ms:60000,oversize_threshold:0"
    import polars  # noqa: F401 - preloaded

    del os.environ[_OPTIONS]
