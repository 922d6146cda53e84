"""Execution of operations in worker threads, each with its own event loop.

Resolvers can therefore call the synchronous service while data loaders still batch, and the server's own loop stays
free for sockets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeGuard, TypeVar, cast

import strawberry
from graphql import ExecutionResult, execute
from strawberry.execution import optimized_is_awaitable

from graphql_api.context import Context
from graphql_api.documents import Operation, RefusedError

__all__ = ["LIMIT_SECONDS", "OVERLOADED", "TIMEOUT", "Workers", "execute_operation"]

LIMIT_SECONDS = 30.0
"""Time limit of a request, including the wait for a thread."""

TIMEOUT = "TIMEOUT"
OVERLOADED = "OVERLOADED"

_THREADS = 8  # fewer than the connections in the database pool
_MOST_WAITING = 256

T = TypeVar("T")

_is_awaitable = cast("Callable[[Any], TypeGuard[Awaitable[Any]]]", optimized_is_awaitable)  # faster than the default


class Workers:
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
        self._own = threading.local()
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._places = threading.Semaphore(threads + _MOST_WAITING)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="graphql", initializer=self._begin)

    async def run(self, work: Callable[[asyncio.AbstractEventLoop, float], T]) -> T:
        """Call `work(loop, deadline)` in one of the threads; the deadline is a `monotonic` time.

        Work that is still queued at the deadline never starts. Running work is abandoned at the deadline, and its
        database reads are interrupted. Raises RefusedError at the deadline, or if the queue is full.
        """
        if not self._places.acquire(blocking=False):
            raise RefusedError.because("The server is overloaded, try again later", OVERLOADED, 503)
        deadline = monotonic() + self.limit
        at_work: list[int] = []
        lock = threading.Lock()  # keeps a thread from starting other work while it is being interrupted

        def begin() -> T:
            at_work.append(threading.get_ident())
            try:
                return work(self._own.loop, deadline)
            finally:
                with lock:
                    at_work.clear()

        def interrupt() -> None:
            with lock:
                for thread in at_work:
                    self._interrupt(thread)

        future = self._pool.submit(begin)
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(self.limit):  # `wait_for` in Python 3.11 can swallow a cancellation
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            await asyncio.to_thread(interrupt)
            refused = RefusedError.because(f"The request took longer than {self.limit:g} s", TIMEOUT, 503)
            raise refused from error

    def close(self) -> None:
        """Wait for running work, then end the threads and their loops."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._loops:
            self._loops.pop().close()

    def _begin(self) -> None:
        self._own.loop = asyncio.new_event_loop()
        self._loops.append(self._own.loop)


def execute_operation(
    schema: strawberry.Schema,
    operation: Operation,
    variables: Mapping[str, Any] | None,
    context: Context,
    loop: asyncio.AbstractEventLoop,
    deadline: float,
    root: object = None,
) -> ExecutionResult:
    """Execute an operation in this thread, on its loop. For a subscription, `root` is the one payload to execute.

    Raises RefusedError at the deadline.
    """

    async def finished() -> ExecutionResult:
        result = execute(
            schema._schema,  # strawberry has no public name for the schema it builds
            operation.document,
            root,
            context_value=context,
            variable_values=dict(variables) if variables else None,
            operation_name=operation.name,
            executor_class=schema.execution_context_class,
            is_awaitable=_is_awaitable,
            operation_extensions=None,
        )
        return await result if isawaitable(result) else result

    async def limited() -> ExecutionResult:
        async with asyncio.timeout(deadline - monotonic()):
            return await finished()

    try:
        return loop.run_until_complete(limited())
    except TimeoutError as error:
        raise RefusedError.because("The request took too long", TIMEOUT, 503) from error
