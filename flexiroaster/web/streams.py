"""Live streams for any number of subscribers, their connection limits, and their transport as server-sent events.

Subscribers to the same execution, or to the same filter of the list, share a feed. A feed listens to the bus, polls the
database at intervals, and ends with its last subscriber.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from starlette.types import Receive, Scope, Send

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.model.event import Level, utc_now
from flexiroaster.service.admin.tokens import Viewer
from flexiroaster.service.executions import events
from flexiroaster.service.executions.events import Batch
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow
from flexiroaster.service.installation import Installation
from flexiroaster.web.authentication import authenticate, credentials_of
from flexiroaster.web.feeds import ChangeFeed, EventBatch, EventFeed, ExecutionChange, StreamsClosedError
from flexiroaster.web.thread_pool import OVERLOADED, RefusedError, ThreadPool

__all__ = [
    "KEEP_ALIVE",
    "MAX_CONNECTIONS_PER_VIEWER",
    "ConnectionLimiter",
    "EventStreams",
    "Streams",
    "StreamsClosedError",
    "Transport",
    "alive",
]


MAX_CONNECTIONS_PER_VIEWER = 500
"""Maximum connections of one viewer: half of the server's limit, so that one token cannot lock out all others."""

MAX_STREAMS = 1_000
"""Maximum number of open streams in one process."""

KEEP_ALIVE_SECONDS = 12.0
"""Interval between two keep-alives, so that no proxy takes a quiet stream for a dead one."""

CHECK_SECONDS = 30.0
"""Interval between two checks that the token is still valid."""

KEEP_ALIVE = b":\n\n"
"""The keep-alive: an SSE comment."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers events before it sends them
]
_END = {"type": "http.response.body", "body": b""}

POLL_SECONDS = 5.0
"""Interval at which a feed polls the database even without a hint, in case the bus is silent."""

RETRY_SECONDS = 1.0
"""Interval between read attempts while the database cannot be reached."""

_READERS = 4  # threads that all feeds share for reading and encoding
_AT_ONCE = 2 * _READERS

_log = logging.getLogger(__name__)

T = TypeVar("T")
_Listen: TypeAlias = Callable[[Callable[..., None]], Callable[[], None]]
"""Starts to call a function back, on any thread, and returns the function that stops this."""


class ConnectionLimiter:
    """The open connections of one process, counted by viewer name. The object belongs to one event loop."""

    def __init__(self, limit_each: int = MAX_CONNECTIONS_PER_VIEWER) -> None:
        self._limit_each = limit_each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken_by(self, name: str) -> Iterator[None]:
        """Reserve a connection for a viewer until the block ends. Raises RefusedError at the limit."""
        if self._taken[name] >= self._limit_each:
            raise RefusedError(f"You already have {self._limit_each} open connections", OVERLOADED, 503)
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]


class _AnyFeed(Protocol):
    @property
    def hint(self) -> Callable[..., None]: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


F = TypeVar("F", bound=_AnyFeed)


class Transport(StrEnum):
    """The transport of an operation that may have many results."""

    WEBSOCKET = "websocket"
    SSE = "sse"


class Streams:
    """The live streams of one process, on one event loop. Call `end`, then `close`, before closing its installation."""

    def __init__(self, installation: Installation) -> None:
        self.subscriptions: Counter[Transport] = Counter(dict.fromkeys(Transport, 0))
        """Number of open subscriptions by transport."""
        self._installation = installation
        self._workers = ThreadPool(_READERS)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._shared: dict[Hashable, _Shared[Any]] = {}
        self._ended = False

    @property
    def feeds(self) -> int:
        """Number of open feeds."""
        return len(self._shared)

    async def run(self, work: Callable[[asyncio.AbstractEventLoop, float], T]) -> T:
        """Call `work(loop, deadline)` in one of the streams' threads, in turn. Raises RefusedError at the deadline."""
        async with self._turns:
            return await self._workers.run(work)

    async def events(
        self, execution_id: str, after: str | None = None, level: Level | None = None
    ) -> AsyncGenerator[EventBatch, None]:
        """Return the events after a cursor and all that follow, until the execution has ended.

        A level selects events of at least that severity. Raises NotFoundError or InputError (cursor) before the first
        event; later StreamsClosedError, and NotFoundError if the execution is deleted.
        """
        number = 0 if after is None else events.number(after)
        checked = await self._read(execution_id, number, 0)
        return self._event_batches(checked, level)

    async def executions(self, wanted: ExecutionFilter, after: str | None = None) -> AsyncIterator[ExecutionChange]:
        """Return the live executions that match, then every match that changes state; the stream does not end.

        With a cursor, the first results include executions that have ended since. Raises InputError (cursor) before the
        first result; later StreamsClosedError.
        """
        return self._changed(wanted, None if after is None else events.change_position(after))

    def end(self) -> None:
        """End all streams with StreamsClosedError, and refuse new ones."""
        self._ended = True
        for shared in self._shared.values():
            shared.feed.close()

    def close(self) -> None:
        """End the threads after their running work; call `end` first."""
        self._workers.close()

    async def _event_batches(self, begin: Batch, level: Level | None) -> AsyncGenerator[EventBatch, None]:
        execution_id, number, caught_up = begin.execution.id, begin.after, False
        listen = partial(events.listen, self._installation, execution_id)
        async with self._feed(execution_id, lambda: EventFeed(partial(self._read, execution_id)), listen) as feed:
            feed.update_state(begin.execution)
            while True:
                cached = await _retry_read(partial(feed.batch, number))
                number = cached.batch.last
                arrived = feed.caught_up(number) and not caught_up
                caught_up = caught_up or arrived
                payload = cached.payload(level, caught_up)
                if payload.events or arrived:
                    yield payload
                if feed.ended(number):
                    return
                await feed.news(number)

    async def _changed(self, wanted: ExecutionFilter, at: datetime | None) -> AsyncIterator[ExecutionChange]:
        listen = partial(events.listen_to_changes, self._installation)
        async with self._feed(wanted, lambda: ChangeFeed(partial(self._matching, wanted)), listen) as feed:
            number, now = feed.number, utc_now()
            found = await _retry_read(partial(feed.begin, at))
            at = now
            while True:
                for change in found:
                    yield change
                    at = max(at, change.at)
                changes = await _retry_read(partial(feed.changes_after, number))
                number = feed.number
                found = await _retry_read(partial(feed.begin, at)) if changes is None else changes

    async def _read(self, execution_id: str, after: int, limit: int) -> Batch:
        return await self.run(lambda *_: events.since(self._installation, execution_id, after, limit))

    async def _matching(
        self, wanted: ExecutionFilter, ids: frozenset[str] | None, at: datetime | None
    ) -> list[ExecutionRow]:
        if ids is None:
            return await self.run(lambda *_: events.changes_since(self._installation, wanted, at))
        return await self.run(lambda *_: events.changes_among(self._installation, wanted, ids))

    @asynccontextmanager
    async def _feed(self, key: Hashable, make: Callable[[], F], listen: _Listen) -> AsyncIterator[F]:
        """Use the feed of a key until the block ends; the first user creates it, the last one closes it."""
        if self._ended:
            raise StreamsClosedError("The server is shutting down")
        if key not in self._shared:
            self._shared[key] = _Shared(make(), lambda hint: self.run(lambda *_: listen(hint)))
        shared: _Shared[F] = self._shared[key]
        shared.users += 1
        try:
            await asyncio.shield(shared.opened)
            yield shared.feed
        finally:
            shared.users -= 1
            if shared.users == 0:
                if self._shared.get(key) is shared:
                    del self._shared[key]
                shared.close()


class _Shared(Generic[F]):
    """A feed with its user count, its bus listener and its polling task."""

    def __init__(self, feed: F, listen: Callable[[Callable[..., None]], Awaitable[Callable[[], None]]]) -> None:
        self.users = 0
        self.feed = feed
        self._loop = asyncio.get_running_loop()
        self.opened = asyncio.ensure_future(listen(self._hint))
        self._polling = asyncio.create_task(self._poll())

    def close(self) -> None:
        """Stop listening and polling; the feed has no users left."""
        self._polling.cancel()
        self.feed.forget()
        self.opened.add_done_callback(_end_listening)

    def _hint(self, *execution_id: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.feed.hint, *execution_id)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.feed.hint()


async def _retry_read(read: Callable[[], Awaitable[T]]) -> T:
    """Read, and retry while the database cannot be reached."""
    while True:
        try:
            return await read()
        except (StoreError, RefusedError) as error:
            _log.warning("Cannot read a live stream; retrying: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


def _end_listening(opened: asyncio.Future[Callable[[], None]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result()()


# --- server-sent event streams, shared by GraphQL and REST -----------------------------------------------------------


class EventStreams:
    """The open event streams of one process. The object belongs to one event loop."""

    def __init__(self, installation: Installation, workers: ThreadPool, limiter: ConnectionLimiter) -> None:
        self._installation = installation
        self._workers = workers
        self._limiter = limiter
        self.open = 0
        """Number of open streams."""

    async def viewer(self, scope: Scope) -> Viewer:
        """Authenticate a request. Raises UnauthenticatedError, StoreError, RefusedError."""
        return await self._workers.run(lambda *_: authenticate(self._installation, scope, credentials_of(scope)))

    @contextmanager
    def count_stream(self, viewer: Viewer) -> Iterator[None]:
        """Count a stream until the block ends. Raises RefusedError if too many are open, in all or for this viewer."""
        if self.open >= MAX_STREAMS:
            raise RefusedError("Too many streams are open, try again later", OVERLOADED, 503)
        with self._limiter.taken_by(viewer.name):
            self.open += 1
            try:
                yield
            finally:
                self.open -= 1

    async def send(self, chunks: AsyncGenerator[bytes, None], scope: Scope, receive: Receive, send: Send) -> None:
        """Send these chunks until they end, the client disconnects, or its token is no longer valid."""
        stream = asyncio.create_task(_send(chunks, send))
        gone = asyncio.create_task(_gone(receive))
        invalid = asyncio.create_task(self._until_invalid(scope))
        tasks = (stream, gone, invalid)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result
        if done == {invalid}:
            await send(_END)

    async def _until_invalid(self, scope: Scope) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            with suppress(StoreError, RefusedError):  # the check failed, but the token was valid before
                try:
                    await self.viewer(scope)
                except UnauthenticatedError:
                    return


async def alive(found: AsyncIterator[T]) -> AsyncGenerator[T | None, None]:
    """Yield the items of an iterator, and None after each `KEEP_ALIVE_SECONDS` without an item."""
    while True:
        coming = asyncio.ensure_future(anext(found))
        try:
            while not (await asyncio.wait([coming], timeout=KEEP_ALIVE_SECONDS))[0]:
                yield None
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        try:
            yield coming.result()
        except StopAsyncIteration:
            return


async def _send(chunks: AsyncGenerator[bytes, None], send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    async with aclosing(chunks):
        async for chunk in chunks:  # while the client does not read, this waits and holds one chunk
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send(_END)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
