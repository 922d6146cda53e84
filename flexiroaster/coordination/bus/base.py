"""The message bus: its interface, its messages and the listeners of this process.

A message is a hint: it names what may have changed in the database. It may arrive twice, late or not at all. When
messages may have been lost, listeners get a gap (`Message.gap`) and read the database. So: subscribe first, then read,
then read again at each hint.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Protocol

import orjson

__all__ = [
    "Bus",
    "Callback",
    "Channel",
    "Envelope",
    "Listeners",
    "LocalBus",
    "Message",
    "encode",
    "pack",
    "unpack",
]


logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1000
"""The maximum size of topic and payload together: a message carries ids and numbers, never the data itself."""

SLOW_SECONDS = 0.25
"""A callback that takes longer delays all others, and is logged once."""


@dataclass(frozen=True, slots=True)
class Message:
    """A hint that `topic` changed. With `gap`, messages may have been lost: read the database again."""

    topic: str
    payload: dict[str, Any] = field(default_factory=dict)
    gap: bool = False


Callback = Callable[[Message], None]
Envelope = tuple[str, bytes]
"""A topic and a payload as JSON; the topic "" announces a gap to all processes."""


class Bus(Protocol):
    """A publish-subscribe bus. Thread-safe.

    Topics are words separated by colons: `work`, `commands:{execution}`, `events:{execution}`.
    """

    def publish(self, topic: str, payload: dict[str, Any] | None = None) -> None:
        """Publish to all processes of the installation, this one first. Never blocks; server failures never raise.

        Raises ValueError when topic and payload exceed MAX_MESSAGE_BYTES.
        """

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Subscribe to a topic and its subtopics (`events` includes `events:{execution}`); return the unsubscribe call.

        Callbacks run on the thread that delivers the message and must be quick (set an event, fill a queue). A callback
        that blocks delays all others of this process, but none of other processes. Their exceptions are logged.
        """

    @property
    def transport(self) -> str:
        """The current transport to other processes: redis, postgresql, sqlite or local."""

    def close(self) -> None:
        """Send the queued messages, then end all threads and connections. May be called twice."""


class Channel(Protocol):
    """A transport to other processes."""

    name: str

    def send(self, batch: Sequence[Envelope]) -> bool:
        """Send a batch to all processes on this transport; return whether the transport accepted it."""

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:
        """Start to listen: `receive` gets the batches of others; `gap` is called when messages may have been lost.

        `gap` is always called once listening has started.
        """

    def subscribe(self, root: str) -> None:
        """Also receive topics with this first word; a gap follows."""

    def close(self) -> None:
        """Stop listening."""


class Listeners:
    """The subscriptions of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: dict[str, tuple[Callback, ...]] = {}
        self._slow: set[Callback] = set()

    def add(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Subscribe to a topic and its subtopics; return the unsubscribe call."""
        entry = partial(callback)  # unique, whereas the same callback may subscribe twice
        with self._lock:
            self._by_topic[topic] = (*self._by_topic.get(topic, ()), entry)
        return lambda: self._remove(topic, entry)

    def deliver(self, message: Message) -> None:
        """Call all listeners of the message's topic."""
        parts = message.topic.split(":")
        for length in range(len(parts), 0, -1):
            for callback in self._by_topic.get(":".join(parts[:length]), ()):
                self._call(callback, message)

    def deliver_gap(self) -> None:
        """Call all listeners with a gap: messages may have been lost."""
        with self._lock:
            subscriptions = list(self._by_topic.items())
        for topic, callbacks in subscriptions:
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
        except Exception:  # a defect of one listener must not lose the messages of the others
            logger.exception("a listener for %s failed", message.topic)
        if monotonic() - started > SLOW_SECONDS and callback not in self._slow:
            self._slow.add(callback)
            logger.warning("a listener for %s took %.1f s and delayed all others", message.topic, monotonic() - started)


def encode(topic: str, payload: dict[str, Any] | None) -> Envelope:
    """Encode a message. Raises ValueError when it exceeds MAX_MESSAGE_BYTES."""
    data = orjson.dumps(payload or {})
    if len(topic.encode()) + len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"a message on {topic[:40]!r} exceeds {MAX_MESSAGE_BYTES} bytes: send ids, not the data itself"
        )
    return topic, data


class LocalBus:
    """A bus of a single process, for an in-memory database and for tests. It delivers on the publisher's thread."""

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


# --- wire format: `{"from": "...", "messages": [["events:x1", {"seq": 7}], ...]}` ---


def pack(origin: str, batch: Sequence[Envelope], max_bytes: int) -> Iterator[bytes]:
    """Encode the batch as JSON texts of at most `max_bytes` each, if every message keeps to its own limit."""
    head = b'{"from":' + orjson.dumps(origin) + b',"messages":['
    room = max_bytes - len(head) - 2
    parts: list[bytes] = []
    used = 0
    for topic, payload in batch:
        part = b"[" + orjson.dumps(topic) + b"," + payload + b"]"
        if parts and used + len(part) + 1 > room:
            yield head + b",".join(parts) + b"]}"
            parts, used = [], 0
        parts.append(part)
        used += len(part) + 1
    if parts:
        yield head + b",".join(parts) + b"]}"


def unpack(text: bytes, origin: str) -> list[Message]:
    """Decode the messages of others; return none for a batch that `origin` sent. An unreadable batch is a gap."""
    try:
        batch = orjson.loads(text)
        if batch["from"] == origin:
            return []
        return [Message(str(topic), dict(payload), gap=not topic) for topic, payload in batch["messages"]]
    except (ValueError, KeyError, TypeError):
        return [Message("", gap=True)]
