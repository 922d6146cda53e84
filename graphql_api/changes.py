"""Live changes in the list of executions: one database reader per filter and process, for any number of subscribers.

The bus notifies a feed of executions that may have changed state. The feed reads those that match its filter and keeps
the latest changes in a bounded window. A subscriber that falls behind the window, or reconnects with a cursor, receives
the executions that are still live and those that have ended since.
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
from flexiroaster.service.executions.executions import ExecutionRow

__all__ = ["ChangeFeed", "ExecutionChange", "Read"]

WINDOW = 1_000
"""Number of changes that a feed keeps."""

_REMEMBERED = 10_000  # executions whose last state a feed remembers; beyond that it may report the same state twice
_PAUSE_SECONDS = 0.05  # between two reads, so that one read covers changes that happen at the same time

Read = Callable[[frozenset[str] | None, datetime | None], Awaitable[Sequence[ExecutionRow]]]
"""Reads matching executions: among the given ids or, for None, those that are live or have ended since a time."""


class ExecutionChange:
    """A subscription payload: an execution in its new state. All subscribers share one object."""

    __slots__ = ("__weakref__", "at", "cursor", "execution", "number")

    def __init__(self, number: int, execution: ExecutionRow, at: datetime) -> None:
        self.number = number
        self.execution = execution
        self.at = at
        self.cursor = changes.cursor(at)


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
        self._looked_at = utc_now()
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
            self._looked_at = now
            self._states.update((row.id, row.status) for row in rows[:_REMEMBERED])
        return [ExecutionChange(number, row, now) for row in rows]

    async def behind(self, number: int) -> list[ExecutionChange] | None:
        """Wait for changes after a number and return them; None if the window no longer holds them."""
        while self.number == number and not self._closed:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._look())
            await asyncio.shield(self._reading)
        if self.number - number > len(self._window):
            return None
        return list(dropwhile(lambda change: change.number <= number, self._window))

    async def _look(self) -> None:
        """Wait for a hint, then read the executions that may have changed."""
        await self._news.wait()
        await asyncio.sleep(0 if self._closed else _PAUSE_SECONDS)
        self._news.clear()
        ids = None if self._all_dirty else frozenset(self._dirty)
        self._dirty, self._all_dirty = set(), False
        now = utc_now()
        try:
            rows = await self._read(ids, self._looked_at)
        except BaseException:
            self.hint()  # the ids to read are lost, so read everything next time
            raise
        if ids is None:
            self._looked_at = now
        for row in filter(self._is_new, rows):
            self.number += 1
            self._window.append(ExecutionChange(self.number, row, now))

    def _is_new(self, row: ExecutionRow) -> bool:
        """Whether an execution's state differs from the last known one."""
        before = self._states.get(row.id)
        self._states[row.id] = row.status
        self._states.move_to_end(row.id)
        if len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return before is not row.status
