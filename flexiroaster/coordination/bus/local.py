"""The bus of one process alone: for a database in memory, and for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexiroaster.coordination.bus.base import Callback, Listeners, Message, encode

__all__ = ["LocalBus"]


class LocalBus:
    """Delivers on the publisher's thread."""

    transport = "local"

    def __init__(self) -> None:
        self._listeners = Listeners()

    def publish(self, topic: str, payload: dict[str, Any] | None = None) -> None:
        """Call all that listen."""
        encode(topic, payload)
        self._listeners.deliver(Message(topic, payload or {}))

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call back for this topic and those below it, until the result is called."""
        return self._listeners.add(topic, callback)

    def close(self) -> None:
        """There is nothing to close."""
