"""The reader of one execution's live events, for all who follow it in this process.

It keeps the last batches in a bounded window, by the number that they begin after; a subscriber holds nothing but the
number of the last event it has. Whoever asks for a batch that is not in the window has it read from the database. So
one that stalls costs nobody anything and misses nothing, and one that comes back goes on exactly where it was.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from flexiroaster.errors import FlexiRoasterError
from flexiroaster.model.event import Event, Level
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service import events
from flexiroaster.service.events import Batch
from flexiroaster.service.executions import ExecutionRow

__all__ = ["EventBatch", "Feed", "Kept", "StreamsClosedError"]

PAGE = 200
"""Events read at a time."""

WINDOW = 1_000
"""Events that a feed keeps."""


class StreamsClosedError(FlexiRoasterError):
    """The server ends, and with it the stream: go on from the last cursor, there or elsewhere."""

    code = "stream.closed"


class EventBatch:
    """A payload: events that came together. The same object for all subscribers that are given the same."""

    __slots__ = ("__weakref__", "caught_up", "cursor", "events", "execution")

    def __init__(self, batch: Batch, selected: tuple[Event, ...], caught_up: bool) -> None:
        self.events = selected
        self.cursor = events.cursor(batch.last)
        self.caught_up = caught_up
        self.execution: ExecutionRow = batch.execution


class Kept:
    """A batch and the payloads made of it."""

    __slots__ = ("_payloads", "batch")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._payloads: dict[tuple[Level | None, bool], EventBatch] = {}

    def payload(self, level: Level | None, caught_up: bool) -> EventBatch:
        """The events of a level or a more serious one, all where it is None."""
        key = (level, caught_up)
        if key not in self._payloads:
            found = self.batch.events
            selected = found if level is None else tuple(event for event in found if event.level.at_least(level))
            self._payloads[key] = EventBatch(self.batch, selected, caught_up)
        return self._payloads[key]


class Feed:
    """The reader of one execution. Belongs to one event loop."""

    def __init__(self, read: Callable[[int, int], Awaitable[Batch]]) -> None:
        self._read = read
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._reading: dict[int, asyncio.Task[Kept]] = {}
        self._news = asyncio.Event()
        self._hints = 0
        self._seen_hints = -1  # how many there were when the newest events were read
        self._newest: ExecutionRow | None = None
        self._closed = False

    def hint(self) -> None:
        """There may be new events."""
        self._hints += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self.hint()

    def forget(self) -> None:
        """Nobody uses it any more; reads under way end by themselves."""

    async def batch(self, after: int) -> Kept:
        """The events behind a number, none where there are none yet. Raises NotFoundError, InputError, StoreError."""
        kept = self._kept.get(after)
        if kept is not None:
            return kept
        task = self._reading.get(after)
        if task is None:
            task = self._reading[after] = asyncio.create_task(self._load(after))
            task.add_done_callback(partial(self._loaded, after))
        return await asyncio.shield(task)

    def learn(self, execution: ExecutionRow) -> None:
        """The execution was seen in that state."""
        if self._newest is None or execution.last_seq >= self._newest.last_seq:
            self._newest = execution

    async def news(self, after: int) -> None:
        """Return when there may be events behind that number. Raises StreamsClosedError."""
        while self._is_settled(after) and not self._closed:
            await self._news.wait()
        if self._closed:
            raise StreamsClosedError("The server ends")

    def caught_up(self, number: int) -> bool:
        """Whether no event behind that number is known of."""
        return self._newest is not None and number >= self._newest.last_seq

    def ended(self, number: int) -> bool:
        """Whether no event comes behind that number."""
        newest = self._newest
        return newest is not None and newest.status in TERMINAL and self._is_settled(number)

    def _loaded(self, after: int, task: asyncio.Task[Kept]) -> None:
        del self._reading[after]
        if not task.cancelled():
            task.exception()  # it is told to those who wait, if any still do

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
        """How many events to read: to where others are, so that all have the same batches from there on."""
        known = self._newest.last_seq if self._newest is not None else 0
        ahead = [number - after for number in (*self._kept, known) if number > after]
        return min([PAGE, *ahead])

    def _is_settled(self, number: int) -> bool:
        """Whether that is the last event, and nobody has told of news since it was found to be."""
        return self.caught_up(number) and self._seen_hints == self._hints
