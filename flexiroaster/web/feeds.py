"""Feeds: one database reader for the events of an execution or for a list of executions, shared by all subscribers.

A feed keeps the latest batches in a bounded window, keyed by the event number that each begins after. A subscriber
holds only the number of its last event; a batch outside the window is read from the database. A stalled subscriber
therefore costs the others nothing and misses nothing, and a returning one resumes exactly where it was.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import dropwhile

from flexiroaster.errors import FlexiRoasterError
from flexiroaster.model.event import Event, Level, utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.service.executions import events
from flexiroaster.service.executions.events import Batch
from flexiroaster.service.executions.executions import ExecutionRow

__all__ = ["CachedBatch", "ChangeFeed", "EventBatch", "EventFeed", "ExecutionChange", "Read", "StreamsClosedError"]


PAGE = 200
"""Number of events per read."""

WINDOW = 1_000
"""Number of events that a feed keeps."""

_MAX_STATES = 10_000  # executions whose last state a feed remembers; beyond that it may report the same state twice
_GATHER_SECONDS = 0.05  # between two reads, so that one read covers changes that happen at the same time

Read = Callable[[frozenset[str] | None, datetime | None], Awaitable[Sequence[ExecutionRow]]]
"""Reads matching executions: among the given ids or, for None, those that are live or have ended since a time."""


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


class CachedBatch:
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


class EventFeed:
    """The reader of one execution. It belongs to one event loop."""

    def __init__(self, read: Callable[[int, int], Awaitable[Batch]]) -> None:
        self._read = read
        self._batches: OrderedDict[int, CachedBatch] = OrderedDict()
        self._reading: dict[int, asyncio.Task[CachedBatch]] = {}
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

    async def batch(self, after: int) -> CachedBatch:
        """Return the events after a number; empty if none exist yet. Raises NotFoundError, InputError, StoreError."""
        cached = self._batches.get(after)
        if cached is not None:
            return cached
        task = self._reading.get(after)
        if task is None:
            task = self._reading[after] = asyncio.create_task(self._load(after))
            task.add_done_callback(partial(self._loaded, after))
        return await asyncio.shield(task)

    def update_state(self, execution: ExecutionRow) -> None:
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

    def _loaded(self, after: int, task: asyncio.Task[CachedBatch]) -> None:
        del self._reading[after]
        if not task.cancelled():
            task.exception()  # mark it as retrieved; the waiting subscribers, if any, receive it

    async def _load(self, after: int) -> CachedBatch:
        hints = self._hints
        batch = await self._read(after, self._limit(after))
        self.update_state(batch.execution)
        if batch.last == batch.execution.last_seq:
            self._seen_hints = max(hints, self._seen_hints)
        cached = CachedBatch(batch)
        if batch.events:
            self._keep(cached)
        return cached

    def _keep(self, cached: CachedBatch) -> None:
        self._batches[cached.batch.after] = cached
        total = sum(len(cached.batch.events) for cached in self._batches.values())
        while total > WINDOW and len(self._batches) > 1:
            _, evicted = self._batches.popitem(last=False)
            total -= len(evicted.batch.events)

    def _limit(self, after: int) -> int:
        """Number of events to read: up to where another batch begins, so that subscribers share the batches there."""
        known = self._newest.last_seq if self._newest is not None else 0
        ahead = [number - after for number in (*self._batches, known) if number > after]
        return min([PAGE, *ahead])

    def _is_settled(self, number: int) -> bool:
        """Whether this is the last event and no hint has arrived since that was read."""
        return self.caught_up(number) and self._seen_hints == self._hints


# --- changes in the list of executions -------------------------------------------------------------------------------


class ExecutionChange:
    """A subscription payload: an execution in its new state. All subscribers share one object."""

    __slots__ = ("__weakref__", "at", "cursor", "execution", "number")

    def __init__(self, number: int, execution: ExecutionRow, at: datetime) -> None:
        self.number = number
        self.execution = execution
        self.at = at
        self.cursor = events.change_cursor(at)


class ChangeFeed:
    """The reader for one filter. It belongs to one event loop."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._window: deque[ExecutionChange] = deque(maxlen=WINDOW)
        self._states: OrderedDict[str, ExecutionStatus] = OrderedDict()
        self._dirty: set[str] = set()
        self._all_dirty = False
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._read_at = utc_now()
        self._begun = False
        self._closed = False
        self.number = 0
        """The number of the last change."""

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed

    def hint(self, execution_id: str | None = None) -> None:
        """Note that this execution, or any execution for None, may have changed state."""
        self._all_dirty = self._all_dirty or execution_id is None or len(self._dirty) >= WINDOW
        if self._all_dirty:
            self._dirty.clear()
        elif execution_id is not None:
            self._dirty.add(execution_id)
        self._news.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self.hint()

    def forget(self) -> None:
        """Cancel the pending read; the feed has no subscribers left."""
        if self._reading is not None:
            self._reading.cancel()

    async def begin(self, at: datetime | None) -> list[ExecutionChange]:
        """Return a subscriber's first changes: live executions and, with a time, those that have ended since."""
        number, now = self.number, utc_now()
        rows = await self._read(None, at)
        if not self._begun:  # later, the feed itself detects the changes for its other subscribers
            self._begun = True
            self._read_at = now
            self._states.update((row.id, row.status) for row in rows[:_MAX_STATES])
        return [ExecutionChange(number, row, now) for row in rows]

    async def changes_after(self, number: int) -> list[ExecutionChange] | None:
        """Wait for changes after a number and return them; None if the window no longer holds them."""
        while self.number == number and not self._closed:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_changes())
            await asyncio.shield(self._reading)
        if self.number - number > len(self._window):
            return None
        return list(dropwhile(lambda change: change.number <= number, self._window))

    async def _read_changes(self) -> None:
        """Wait for a hint, then read the executions that may have changed."""
        await self._news.wait()
        await asyncio.sleep(0 if self._closed else _GATHER_SECONDS)
        self._news.clear()
        ids = None if self._all_dirty else frozenset(self._dirty)
        self._dirty, self._all_dirty = set(), False
        now = utc_now()
        try:
            rows = await self._read(ids, self._read_at)
        except BaseException:
            self.hint()  # the ids to read are lost, so read everything next time
            raise
        if ids is None:
            self._read_at = now
        for row in filter(self._is_new, rows):
            self.number += 1
            self._window.append(ExecutionChange(self.number, row, now))

    def _is_new(self, row: ExecutionRow) -> bool:
        """Whether an execution's state differs from the last known one."""
        before = self._states.get(row.id)
        self._states[row.id] = row.status
        self._states.move_to_end(row.id)
        if len(self._states) > _MAX_STATES:
            self._states.popitem(last=False)
        return before is not row.status
