"""Event listeners: callbacks for events that are durable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from flexiroaster.model.event import Event

__all__ = ["Listener", "Listeners"]

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[Event]], None]


class Listeners:
    """Registry of listeners. Any thread may add one; the driver's thread calls them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a listener. Returns the function that removes it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        return lambda: self._remove(listener)

    def publish(self, events: Sequence[Event]) -> None:
        """Call all listeners if there are events. An exception in one affects neither the others nor the driver."""
        for listener in self._listeners if events else ():
            try:
                listener(events)
            except Exception:
                logger.exception("an event listener failed")

    def _remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
