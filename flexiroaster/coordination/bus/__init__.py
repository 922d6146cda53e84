"""The message bus: hints between processes, which replace constant polling of the database."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flexiroaster.coordination.bus.base import (
    Bus,
    Callback,
    Channel,
    Envelope,
    Listeners,
    LocalBus,
    Message,
    encode,
    unpack,
)
from flexiroaster.coordination.bus.database import PostgresChannel, SqliteChannel
from flexiroaster.coordination.bus.redis import RedisChannel
from flexiroaster.coordination.outbox import Outbox
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.store.database import Database
from flexiroaster.threads import Threads

__all__ = ["Bus", "Callback", "LocalBus", "Message", "SharedBus", "open_bus"]


OUTBOX_LIMIT = 10_000
"""The maximum number of queued messages; when more are published, the other processes get a gap."""

PACE_SECONDS = 0.005
"""The minimum time between two batches: a flood of messages is sent in at most 200 batches a second."""


class SharedBus:
    """The bus between all processes of an installation: over Redis while it is available, else over the database.

    Thread-safe, but not fork-safe. Threads start with the first use.
    """

    def __init__(
        self, origin: str, database: Channel, redis: RedisChannel | None, threads: Threads | None = None
    ) -> None:
        self._origin = origin
        self._redis = redis
        self._database = database
        self._channels: tuple[Channel, ...] = (database, redis) if redis else (database,)
        self._listeners = Listeners()
        self._outbox: Outbox[Envelope] = Outbox(
            self._send, name="flexiroaster-bus-send", limit=OUTBOX_LIMIT, pace=PACE_SECONDS, threads=threads
        )
        self._overflowed = False
        self._lock = threading.Lock()
        self._listening = False
        self._closed = False

    def publish(self, topic: str, payload: dict[str, Any] | None = None) -> None:
        """See `Bus`."""
        envelope = encode(topic, payload)
        self._listeners.deliver(Message(topic, payload or {}))
        if not self._outbox.put(envelope):
            self._overflowed = True

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """See `Bus`. The first subscription starts the listening and gets a gap once that has started."""
        unsubscribe = self._listeners.add(topic, callback)
        with self._lock:
            if self._closed:
                return unsubscribe
            for channel in self._channels:
                channel.subscribe(topic.partition(":")[0])
            if not self._listening:
                self._listening = True
                for channel in self._channels:
                    channel.start(self._receive, self._listeners.deliver_gap)
        return unsubscribe

    @property
    def transport(self) -> str:
        """See `Bus`."""
        return self._redis.name if self._redis and self._redis.available else self._database.name

    def close(self) -> None:
        """See `Bus`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._outbox.close()
        for channel in self._channels:
            channel.close()

    def _send(self, batch: Sequence[Envelope]) -> bool:
        overflowed, self._overflowed = self._overflowed, False
        if overflowed:
            batch = [("", b"{}"), *batch]
        if (self._redis and self._redis.send(batch)) or self._database.send(batch):
            return True
        self._overflowed |= overflowed
        return False

    def _receive(self, text: bytes) -> None:
        for message in unpack(text, self._origin):
            if message.gap:
                self._listeners.deliver_gap()
            else:
                self._listeners.deliver(message)


def open_bus(database: Database, link: RedisLink, threads: Threads | None = None) -> Bus:
    """Open the bus of this installation. Close it before the link and the database."""
    origin = secrets.token_hex(6)
    redis = RedisChannel(link, origin, threads) if link.configured else None
    if not database.is_sqlite:
        postgres = PostgresChannel(database, origin, lambda: redis is not None and not redis.is_listening, threads)
        return SharedBus(origin, postgres, redis, threads)
    path = database.engine.url.database
    if not path or path == ":memory:":
        return LocalBus()
    sqlite = SqliteChannel(path, lambda: redis is not None and redis.is_listening, threads)
    return SharedBus(origin, sqlite, redis, threads)
