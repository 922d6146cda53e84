"""The parts of the driver's event loop: the inbox of actions from other threads, timers, and event listeners."""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic

from flexiroaster.model.event import Event

__all__ = ["Inbox", "Listener", "Listeners", "Timer", "Timers"]

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[Event]], None]
"""Called with events that are durable."""


class Inbox:
    """Queue of actions. Any thread may `post`, which wakes the loop that waits in `selector` and then calls `run`."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._actions: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        selector.register(self._woken, selectors.EVENT_READ, self._drain)

    def post(self, action: Callable[[], None]) -> None:
        """Queue `action` for the loop and wake it."""
        self._actions.append(action)
        with suppress(OSError):  # a full socket wakes the loop too; a closed one needs no wake-up
            self._wake.send(b"\0")

    def run(self) -> None:
        """Run all queued actions, on the loop's thread."""
        while self._actions:
            self._actions.popleft()()

    def close(self) -> None:
        """Close the wake-up sockets."""
        self._wake.close()
        self._woken.close()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass


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
    """All timers of one event loop, in a heap ordered by due time."""

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


class Listeners:
    """Registry of listeners. Any thread may add one; the driver's thread calls them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a listener. Returns the function that removes it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    def publish(self, events: Sequence[Event]) -> None:
        """Call all listeners if there are events. An exception in one affects neither the others nor the driver."""
        for listener in self._listeners if events else ():
            try:
                listener(events)
            except Exception:
                logger.exception("an event listener failed")
