"""What a bus is, what it carries, and who listens.

A message is a hint, never the truth: it says where in the database something new may be found. It may come twice,
late, or not at all; where one may have been missed, listeners are told so (`Message.gap`) and read the database.
So: listen first, then read, then read again at each hint.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Protocol

import orjson

__all__ = ["MOST_BYTES", "Bus", "Callback", "Channel", "Envelope", "Listeners", "Message", "encode"]

logger = logging.getLogger(__name__)

MOST_BYTES = 1000
"""What topic and payload of one message may have together: ids and numbers, never the things themselves."""

SLOW_SECONDS = 0.25
"""A callback that takes longer holds all others up, and is named in the log once."""


@dataclass(frozen=True, slots=True)
class Message:
    """A hint: something happened to `topic`. `gap`: anything may have happened, read the database again."""

    topic: str
    payload: dict[str, Any] = field(default_factory=dict)
    gap: bool = False


Callback = Callable[[Message], None]
Envelope = tuple[str, bytes]
"""A topic and a payload as JSON; the topic "" is a gap that the sender tells everybody of."""


class Bus(Protocol):
    """Topics are words divided by colons: `work`, `commands:{execution}`, `events:{execution}`. Thread-safe."""

    def publish(self, topic: str, payload: dict[str, Any] | None = None) -> None:
        """Tell everybody on the installation, this process first. Never waits, never fails because of a server.

        Raises ValueError when topic and payload are larger than a hint.
        """

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call back for this topic and those below it: `events` hears all of `events:{execution}`. Ends that.

        Callbacks run on the thread that brings the message and must be quick (set an event, fill a queue): one that
        waits holds up all others of this process, though nobody else's. What they raise is logged.
        """

    @property
    def transport(self) -> str:
        """What messages to other processes go through now: redis, postgresql, sqlite or local."""

    def close(self) -> None:
        """Send what waits and end all threads and connections. Closing twice is fine."""


class Channel(Protocol):
    """One way to other processes."""

    name: str

    def send(self, batch: Sequence[Envelope]) -> bool:
        """Bring it to all others that can be reached this way; whether it was taken."""

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:
        """Begin to listen: `receive` gets what others sent, `gap` is called whenever something may have been missed.

        That is always so once, when it has begun to hear.
        """

    def want(self, root: str) -> None:
        """From now on hear topics whose first word this is; followed by a gap."""

    def close(self) -> None:
        """End the listening."""


class Listeners:
    """Who listens to what, in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: dict[str, tuple[Callback, ...]] = {}
        self._slow: set[Callback] = set()

    def add(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call back for a topic and those below it, until the result is called."""
        entry = partial(callback)  # unlike the callback itself, no other entry is equal to it
        with self._lock:
            self._by_topic[topic] = (*self._by_topic.get(topic, ()), entry)
        return lambda: self._remove(topic, entry)

    def deliver(self, message: Message) -> None:
        """Call all that listen to the message's topic."""
        parts = message.topic.split(":")
        for length in range(len(parts), 0, -1):
            for callback in self._by_topic.get(":".join(parts[:length]), ()):
                self._call(callback, message)

    def deliver_gap(self) -> None:
        """Tell everybody that something may have been missed."""
        with self._lock:
            everybody = list(self._by_topic.items())
        for topic, callbacks in everybody:
            for callback in callbacks:
                self._call(callback, Message(topic, gap=True))

    def _remove(self, topic: str, entry: Callback) -> None:
        with self._lock:
            rest = tuple(c for c in self._by_topic.get(topic, ()) if c is not entry)
            if rest:
                self._by_topic[topic] = rest
            else:
                self._by_topic.pop(topic, None)
            self._slow.discard(entry)

    def _call(self, callback: Callback, message: Message) -> None:
        started = monotonic()
        try:
            callback(message)
        except Exception:  # a defect of one listener must not cost the others their messages
            logger.exception("a listener to %s failed", message.topic)
        if monotonic() - started > SLOW_SECONDS and callback not in self._slow:
            self._slow.add(callback)
            logger.warning("a listener to %s took %.1f s and held all others up", message.topic, monotonic() - started)


def encode(topic: str, payload: dict[str, Any] | None) -> Envelope:
    """The message as it travels. Raises ValueError when it is larger than a hint."""
    data = orjson.dumps(payload or {})
    if len(topic.encode()) + len(data) > MOST_BYTES:
        raise ValueError(f"a message on {topic[:40]!r} has more than {MOST_BYTES} bytes: send ids, not the things")
    return topic, data
