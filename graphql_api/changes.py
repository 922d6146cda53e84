"""Live changes in the list of executions: one reader for each filter in a process, however many subscribers.

A feed hears from the bus which executions may be in another state, reads those that match its filter, and keeps the
last changes in a bounded window. A subscriber that is behind the window, or comes back with a cursor, is given what has
not ended and what has ended since.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import dropwhile

from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service import changes
from flexiroaster.service.executions import ExecutionRow

__all__ = ["ChangeFeed", "ExecutionChange", "Read"]

WINDOW = 1_000
"""Changes that a feed keeps."""

_REMEMBERED = 10_000  # executions whose last state a feed knows; of others the same state may be told again
_PAUSE_SECONDS = 0.05  # between two reads, so that what happens at the same time is read at once

Read = Callable[[frozenset[str] | None, datetime | None], Awaitable[Sequence[ExecutionRow]]]
"""The executions that match: among these ids, or where they are None those that live or have ended since a time."""


class ExecutionChange:
    """A payload: an execution in its new state. The same object for all subscribers."""

    __slots__ = ("__weakref__", "at", "cursor", "execution", "number")

    def __init__(self, number: int, execution: ExecutionRow, at: datetime) -> None:
        self.number = number
        self.execution = execution
        self.at = at
        self.cursor = changes.cursor(at)


class ChangeFeed:
    """The reader of one filter. Belongs to one event loop."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._window: deque[ExecutionChange] = deque(maxlen=WINDOW)
        self._states: OrderedDict[str, ExecutionStatus] = OrderedDict()
        self._dirty: set[str] = set()
        self._all_dirty = False
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._looked_at = utc_now()
        self._begun = False
        self._closed = False
        self.number = 0
        """Of the last change."""

    @property
    def closed(self) -> bool:
        """Whether the server ends."""
        return self._closed

    def hint(self, execution_id: str | None = None) -> None:
        """That execution may be in another state, or any."""
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
        """Nobody uses it any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def begin(self, at: datetime | None) -> list[ExecutionChange]:
        """What a subscriber is given first: what has not ended and, with a time, what has ended since."""
        number, now = self.number, utc_now()
        rows = await self._read(None, at)
        if not self._begun:  # later, the feed itself finds out what others are to be told
            self._begun = True
            self._looked_at = now
            self._states.update((row.id, row.status) for row in rows[:_REMEMBERED])
        return [ExecutionChange(number, row, now) for row in rows]

    async def behind(self, number: int) -> list[ExecutionChange] | None:
        """The changes behind a number, when there are any; None where they are no longer kept."""
        while self.number == number and not self._closed:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._look())
            await asyncio.shield(self._reading)
        if self.number - number > len(self._window):
            return None
        return list(dropwhile(lambda change: change.number <= number, self._window))

    async def _look(self) -> None:
        """Read what may have changed, as soon as there is something."""
        await self._news.wait()
        await asyncio.sleep(0 if self._closed else _PAUSE_SECONDS)
        self._news.clear()
        ids = None if self._all_dirty else frozenset(self._dirty)
        self._dirty, self._all_dirty = set(), False
        now = utc_now()
        try:
            rows = await self._read(ids, self._looked_at)
        except BaseException:
            self.hint()  # what was to be read is not known any more
            raise
        if ids is None:
            self._looked_at = now
        for row in filter(self._is_new, rows):
            self.number += 1
            self._window.append(ExecutionChange(self.number, row, now))

    def _is_new(self, row: ExecutionRow) -> bool:
        """Whether an execution is in another state than it was known to be in."""
        before = self._states.get(row.id)
        self._states[row.id] = row.status
        self._states.move_to_end(row.id)
        if len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return before is not row.status
