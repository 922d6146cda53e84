"""Timers of the driver's event loop: a heap ordered by due time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from time import monotonic

__all__ = ["Timer", "Timers"]


class Timer:
    """An action that is due at a time of the monotonic clock, unless it is cancelled before."""

    __slots__ = ("action", "due")

    def __init__(self, due: float, action: Callable[[], None]) -> None:
        self.due = due
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Cancel the timer and release its action at once."""
        self.action = None


class Timers:
    """All timers of one event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sweep_at = 1024
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Schedule `action` after `seconds`."""
        timer = Timer(monotonic() + seconds, action)
        heapq.heappush(self._heap, (timer.due, next(self._order), timer))
        if len(self._heap) > self._sweep_at:
            self._sweep()
        return timer

    def wait(self, now: float) -> float | None:
        """Seconds until the next timer is due, at least 0; None without a timer."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - now) if self._heap else None

    def due(self, now: float) -> Iterator[Callable[[], None]]:
        """Yield the actions that are due, in order."""
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            if timer.action is not None:
                yield timer.action

    def _sweep(self) -> None:
        """Remove cancelled timers. These are most timers, since nearly every attempt ends before its time limit."""
        self._heap = [entry for entry in self._heap if entry[2].action is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(1024, 2 * len(self._heap))
