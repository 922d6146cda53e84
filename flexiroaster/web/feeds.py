"""The feed of one execution's live events, shared by all its subscribers in this process.

A feed keeps the latest batches in a bounded window, keyed by the event number that each begins after. A subscriber
holds only the number of its last event; a batch outside the window is read from the database. A stalled subscriber
therefore costs the others nothing and misses nothing, and a returning one resumes exactly where it was.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from flexiroaster.errors import FlexiRoasterError
from flexiroaster.model.event import Event, Level
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.executions import events
from flexiroaster.service.executions.events import Batch
from flexiroaster.service.executions.executions import ExecutionRow

__all__ = ["EventBatch", "Feed", "Kept", "StreamsClosedError"]

PAGE = 200
"""Number of events per read."""

WINDOW = 1_000
"""Number of events that a feed keeps."""


class StreamsClosedError(FlexiRoasterError):
    """The server is shutting down and ends the stream; resume from the last cursor, on this server or another."""

    code = "stream.closed"


class EventBatch:
    """A subscription payload: events that were read together. Subscribers with the same level share one object."""

    __slots__ = ("__weakref__", "caught_up", "cursor", "events", "execution")

    def __init__(self, batch: Batch, selected: tuple[Event, ...], caught_up: bool) -> None:
        self.events = selected
        self.cursor = events.cursor(batch.last)
        self.caught_up = caught_up
        self.execution: ExecutionRow = batch.execution


class Kept:
    """A batch and the payloads made from it."""

    __slots__ = ("_payloads", "batch")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._payloads: dict[tuple[Level | None, bool], EventBatch] = {}

    def payload(self, level: Level | None, caught_up: bool) -> EventBatch:
        """Return the payload with the events of this level or a more severe one; None selects all events."""
        key = (level, caught_up)
        if key not in self._payloads:
            found = self.batch.events
            selected = found if level is None else tuple(event for event in found if event.level.at_least(level))
            self._payloads[key] = EventBatch(self.batch, selected, caught_up)
        return self._payloads[key]


class Feed:
    """The reader of one execution. It belongs to one event loop."""

    def __init__(self, read: Callable[[int, int], Awaitable[Batch]]) -> None:
        self._read = read
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._reading: dict[int, asyncio.Task[Kept]] = {}
        self._news = asyncio.Event()
        self._hints = 0
        self._seen_hints = -1  # the number of hints when the newest events were read
        self._newest: ExecutionRow | None = None
        self._closed = False

    def hint(self) -> None:
        """Note that new events may exist, and wake the subscribers."""
        self._hints += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self.hint()

    def forget(self) -> None:
        """Do nothing: the feed has no subscribers left, and running reads end by themselves."""

    async def batch(self, after: int) -> Kept:
        """Return the events after a number; empty if none exist yet. Raises NotFoundError, InputError, StoreError."""
        kept = self._kept.get(after)
        if kept is not None:
            return kept
        task = self._reading.get(after)
        if task is None:
            task = self._reading[after] = asyncio.create_task(self._load(after))
            task.add_done_callback(partial(self._loaded, after))
        return await asyncio.shield(task)

    def learn(self, execution: ExecutionRow) -> None:
        """Note the execution's state as it was read."""
        if self._newest is None or execution.last_seq >= self._newest.last_seq:
            self._newest = execution

    async def news(self, after: int) -> None:
        """Wait until there may be events after a number. Raises StreamsClosedError."""
        while self._is_settled(after) and not self._closed:
            await self._news.wait()
        if self._closed:
            raise StreamsClosedError("The server is shutting down")

    def caught_up(self, number: int) -> bool:
        """Whether no event after this number is known."""
        return self._newest is not None and number >= self._newest.last_seq

    def ended(self, number: int) -> bool:
        """Whether the execution has ended and no event follows this number."""
        newest = self._newest
        return newest is not None and newest.status in TERMINAL and self._is_settled(number)

    def _loaded(self, after: int, task: asyncio.Task[Kept]) -> None:
        del self._reading[after]
        if not task.cancelled():
            task.exception()  # mark it as retrieved; the waiting subscribers, if any, receive it

    async def _load(self, after: int) -> Kept:
        hints = self._hints
        batch = await self._read(after, self._limit(after))
        self.learn(batch.execution)
        if batch.last == batch.execution.last_seq:
            self._seen_hints = max(hints, self._seen_hints)
        kept = Kept(batch)
        if batch.events:
            self._keep(kept)
        return kept

    def _keep(self, kept: Kept) -> None:
        self._kept[kept.batch.after] = kept
        total = sum(len(each.batch.events) for each in self._kept.values())
        while total > WINDOW and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            total -= len(gone.batch.events)

    def _limit(self, after: int) -> int:
        """Number of events to read: up to where another batch begins, so that subscribers share the batches there."""
        known = self._newest.last_seq if self._newest is not None else 0
        ahead = [number - after for number in (*self._kept, known) if number > after]
        return min([PAGE, *ahead])

    def _is_settled(self, number: int) -> bool:
        """Whether this is the last event and no hint has arrived since that was read."""
        return self.caught_up(number) and self._seen_hints == self._hints
