"""Live streams for any number of subscribers: what they follow is read from the database once in a process.

A feed belongs to all who follow the same execution, or the same filter of the list. It listens to the bus, looks by
itself now and then, and goes with its last subscriber.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from flexiroaster.errors import StoreError
from flexiroaster.model.event import Level, utc_now
from flexiroaster.service import changes, events
from flexiroaster.service.events import Batch
from flexiroaster.service.executions import ExecutionFilter, ExecutionRow
from flexiroaster.service.installation import Installation
from graphql_api.changes import ChangeFeed, ExecutionChange
from graphql_api.documents import RefusedError
from graphql_api.execution import Workers
from graphql_api.feed import EventBatch, Feed, StreamsClosedError

__all__ = ["Streams", "StreamsClosedError", "Transport"]

LOOK_SECONDS = 5.0
"""How often a feed looks into the database although nobody told of news: behind the bus, should that be silent."""

AGAIN_SECONDS = 1.0
"""Between two attempts to read, while the database cannot be reached."""

_READERS = 4  # threads; reads and encodings of all feeds share them
_AT_ONCE = 2 * _READERS

_log = logging.getLogger(__name__)

T = TypeVar("T")
_Listen: TypeAlias = Callable[[Callable[..., None]], Callable[[], None]]
"""Begins to call back, on any thread, and returns what ends that."""


class _AnyFeed(Protocol):
    @property
    def hint(self) -> Callable[..., None]: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


F = TypeVar("F", bound=_AnyFeed)


class Transport(StrEnum):
    """What the results of a GraphQL operation go over when there may be many."""

    WEBSOCKET = "websocket"
    SSE = "sse"


class Streams:
    """The live streams of one process, on one event loop. `end` and `close` it before its installation."""

    def __init__(self, installation: Installation) -> None:
        self.subscriptions: Counter[Transport] = Counter(dict.fromkeys(Transport, 0))
        """How many subscriptions are open over each."""
        self._installation = installation
        self._workers = Workers(_READERS)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._shared: dict[Hashable, _Shared[Any]] = {}
        self._ended = False

    @property
    def feeds(self) -> int:
        """How many feeds there are."""
        return len(self._shared)

    async def run(self, work: Callable[[asyncio.AbstractEventLoop, float], T]) -> T:
        """Call `work(loop, deadline)` in a thread of the streams' own, in turn. Raises RefusedError: out of time."""
        async with self._turns:
            return await self._workers.run(work)

    async def events(
        self, execution_id: str, after: str | None = None, level: Level | None = None
    ) -> AsyncGenerator[EventBatch, None]:
        """The events behind a cursor and those to come, until the execution has ended.

        With a level, those that are as serious. Raises, before anything is given, NotFoundError and InputError
        (cursor); later StreamsClosedError, and NotFoundError where the execution is deleted.
        """
        number = 0 if after is None else events.number(after)
        checked = await self._read(execution_id, number, 0)
        return self._followed(checked, level)

    async def executions(self, wanted: ExecutionFilter, after: str | None = None) -> AsyncIterator[ExecutionChange]:
        """The executions that match and have not ended, then each that matches in its new state; it does not end.

        Behind a cursor, those that have ended since are among the first. Raises InputError (cursor) before anything is
        given; later StreamsClosedError.
        """
        return self._changed(wanted, None if after is None else changes.moment(after))

    def end(self) -> None:
        """End all streams, each with StreamsClosedError; none begins after that."""
        self._ended = True
        for shared in self._shared.values():
            shared.feed.close()

    def close(self) -> None:
        """End the threads, once they have done what they do; `end` comes first."""
        self._workers.close()

    async def _followed(self, begin: Batch, level: Level | None) -> AsyncGenerator[EventBatch, None]:
        execution_id, number, caught_up = begin.execution.id, begin.after, False
        listen = partial(events.listen, self._installation, execution_id)
        async with self._feed(execution_id, lambda: Feed(partial(self._read, execution_id)), listen) as feed:
            feed.learn(begin.execution)
            while True:
                kept = await _patiently(partial(feed.batch, number))
                number = kept.batch.last
                arrived = feed.caught_up(number) and not caught_up
                caught_up = caught_up or arrived
                payload = kept.payload(level, caught_up)
                if payload.events or arrived:
                    yield payload
                if feed.ended(number):
                    return
                await feed.news(number)

    async def _changed(self, wanted: ExecutionFilter, at: datetime | None) -> AsyncIterator[ExecutionChange]:
        listen = partial(changes.listen, self._installation)
        async with self._feed(wanted, lambda: ChangeFeed(partial(self._matching, wanted)), listen) as feed:
            number, now = feed.number, utc_now()
            found = await _patiently(partial(feed.begin, at))
            at = now
            while True:
                for change in found:
                    yield change
                    at = max(at, change.at)
                behind = await _patiently(partial(feed.behind, number))
                number = feed.number
                found = await _patiently(partial(feed.begin, at)) if behind is None else behind

    async def _read(self, execution_id: str, after: int, limit: int) -> Batch:
        return await self.run(lambda *_: events.since(self._installation, execution_id, after, limit))

    async def _matching(
        self, wanted: ExecutionFilter, ids: frozenset[str] | None, at: datetime | None
    ) -> list[ExecutionRow]:
        if ids is None:
            return await self.run(lambda *_: changes.since(self._installation, wanted, at))
        return await self.run(lambda *_: changes.among(self._installation, wanted, ids))

    @asynccontextmanager
    async def _feed(self, key: Hashable, make: Callable[[], F], listen: _Listen) -> AsyncIterator[F]:
        """The feed of that key, made and listening if it is not there, for as long as somebody uses it."""
        if self._ended:
            raise StreamsClosedError("The server ends")
        if key not in self._shared:
            self._shared[key] = _Shared(make(), lambda heard: self.run(lambda *_: listen(heard)))
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
    """A feed while somebody uses it: it hears from the bus, and looks by itself now and then."""

    def __init__(self, feed: F, listen: Callable[[Callable[..., None]], Awaitable[Callable[[], None]]]) -> None:
        self.users = 0
        self.feed = feed
        self._loop = asyncio.get_running_loop()
        self.opened = asyncio.ensure_future(listen(self._heard))
        self._look = asyncio.create_task(self._look_by_itself())

    def close(self) -> None:
        """Nobody uses it any more."""
        self._look.cancel()
        self.feed.forget()
        self.opened.add_done_callback(_end_listening)

    def _heard(self, *what: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.feed.hint, *what)

    async def _look_by_itself(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.feed.hint()


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What is read, even if the database cannot be reached for a while."""
    while True:
        try:
            return await read()
        except (StoreError, RefusedError) as error:
            _log.warning("Live streams cannot be read, and are tried again: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)


def _end_listening(opened: asyncio.Future[Callable[[], None]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result()()
