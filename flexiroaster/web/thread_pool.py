"""The thread pool that serves requests; each thread has its own event loop.

GraphQL resolvers can therefore call the synchronous service while data loaders still batch, and the server's own loop
stays free for sockets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, TypeVar

__all__ = ["BAD_REQUEST", "LIMIT_SECONDS", "OVERLOADED", "TIMEOUT", "RefusedError", "ThreadPool"]

LIMIT_SECONDS = 30.0
"""Time limit of a request, including the wait for a thread."""

BAD_REQUEST = "BAD_REQUEST"
TIMEOUT = "TIMEOUT"
OVERLOADED = "OVERLOADED"

_THREADS = 8  # fewer than the connections in the database pool
_MAX_WAITING = 256

T = TypeVar("T")


class RefusedError(Exception):
    """A request that is not carried out; `status` is the HTTP status that says why, `errors` what the client may see.

    `well_formed`: the request is valid GraphQL over HTTP, and the error is in its operation. Clients that only accept
    `application/json` expect status 200 in this case.
    """

    def __init__(self, message: str, code: str = BAD_REQUEST, status: int = 400, *, well_formed: bool = False) -> None:
        super().__init__(message)
        self.errors: list[Mapping[str, Any]] = [{"message": message, "extensions": {"code": code}}]
        self.status = status
        self.well_formed = well_formed


class ThreadPool:
    """A bounded pool of threads, each with its own event loop. Close it at the end.

    `interrupt` takes a thread's identity and interrupts the database statement that the thread waits for.
    """

    def __init__(
        self,
        threads: int = _THREADS,
        limit: float = LIMIT_SECONDS,
        interrupt: Callable[[int], None] = lambda _thread: None,
    ) -> None:
        self.limit = limit
        self._interrupt = interrupt
        self._local = threading.local()
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._slots = threading.Semaphore(threads + _MAX_WAITING)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="graphql", initializer=self._begin)

    async def run(self, work: Callable[[asyncio.AbstractEventLoop, float], T]) -> T:
        """Call `work(loop, deadline)` in one of the threads; the deadline is a `monotonic` time.

        Work that is still queued at the deadline never starts. Running work is abandoned at the deadline, and its
        database reads are interrupted. Raises RefusedError at the deadline, or if the queue is full.
        """
        if not self._slots.acquire(blocking=False):
            raise RefusedError("The server is overloaded, try again later", OVERLOADED, 503)
        deadline = monotonic() + self.limit
        at_work: list[int] = []
        lock = threading.Lock()  # keeps a thread from starting other work while it is being interrupted

        def begin() -> T:
            at_work.append(threading.get_ident())
            try:
                return work(self._local.loop, deadline)
            finally:
                with lock:
                    at_work.clear()

        def interrupt() -> None:
            with lock:
                for thread in at_work:
                    self._interrupt(thread)

        future = self._pool.submit(begin)
        future.add_done_callback(lambda _: self._slots.release())
        try:
            async with asyncio.timeout(self.limit):  # `wait_for` in Python 3.11 can swallow a cancellation
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            await asyncio.to_thread(interrupt)
            refused = RefusedError(f"The request took longer than {self.limit:g} s", TIMEOUT, 503)
            raise refused from error

    def close(self) -> None:
        """Wait for running work, then end the threads and their loops."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._loops:
            self._loops.pop().close()

    def _begin(self) -> None:
        self._local.loop = asyncio.new_event_loop()
        self._loops.append(self._local.loop)
