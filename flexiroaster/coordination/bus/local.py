"""The bus of a single process, for an in-memory database and for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexiroaster.coordination.bus.base import Callback, Listeners, Message, encode

__all__ = ["LocalBus"]


class LocalBus:
    """A bus that delivers on the publisher's thread."""

    transport = "local"

    def __init__(self) -> None:
        self._listeners = Listeners()

    def publish(self, topic: str, payload: dict[str, Any] | None = None) -> None:
        """See `Bus`."""
        encode(topic, payload)
        self._listeners.deliver(Message(topic, payload or {}))

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """See `Bus`."""
        return self._listeners.add(topic, callback)

    def close(self) -> None:
        """Do nothing: this bus has no threads or connections."""
