"""What every worker needs and takes long to import; the zygote imports this module first, and forks afterwards.

Polars' allocator, jemalloc, gives memory back to the system within seconds, and large pieces at once in a process
without jemalloc's own thread, as a forked one is: a worker would spend a third of its time on getting it again. It
reads its options when polars is loaded. They are not for what a stage starts, so they do not stay in the environment.
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
