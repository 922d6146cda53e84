"""Who hears of events once they are durable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from flexiroaster.model.event import Event

__all__ = ["Listener", "Listeners"]

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[Event]], None]


class Listeners:
    """Any thread may add one; they are called on the driver's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call it with events from now on; the result ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        return lambda: self._remove(listener)

    def publish(self, events: Sequence[Event]) -> None:
        """Call all, none for nothing. A listener that fails costs neither the others nor the driver."""
        for listener in self._listeners if events else ():
            try:
                listener(events)
            except Exception:
                logger.exception("a listener failed")

    def _remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
