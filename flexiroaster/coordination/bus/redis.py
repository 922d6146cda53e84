"""The bus transport over Redis publish/subscribe, with one connection and a thread that reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from flexiroaster.coordination.bus.base import Envelope, pack
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.threads import SupervisedThread, Threads

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

__all__ = ["RedisChannel"]

MAX_PAYLOAD_BYTES = 64_000
WAIT_SECONDS = 0.5
"""The longest wait for a message; then the reader checks for changes and pings the server."""

RECONNECT_SECONDS = 0.05
RETRY_SECONDS = 1.0
"""Delays before the next connection, after one that worked and after one that did not."""

PONG_SECONDS = 1.5
"""Silence of the server after which the connection is closed."""


class RedisChannel:
    """One Redis channel per first word of a topic, subscribed to on demand.

    All processes share one more channel for gaps. Each process has one of its own, which wakes its reader.
    """

    name = "redis"

    def __init__(self, link: RedisLink, origin: str, threads: Threads | None = None) -> None:
        self._link = link
        self._origin = origin
        self._base = link.scoped_key("bus")
        self._own = f"{self._base}:@{origin}"
        self._wanted = {self._base, self._own}
        self._closed = threading.Event()
        self.is_listening = False
        """Whether messages that others publish in Redis arrive here."""
        self._thread = SupervisedThread(
            self._run_connection,
            name="flexiroaster-bus-redis",
            closed=self._closed,
            threads=threads,
            pause=RETRY_SECONDS,
        )
        self._receive: Callable[[bytes], None] = lambda _text: None
        self._gap: Callable[[], None] = lambda: None

    @property
    def available(self) -> bool:
        """Whether messages can be sent over Redis."""
        return self._link.available

    def send(self, batch: Sequence[Envelope]) -> bool:
        """Publish; return False when Redis is unavailable."""
        roots: dict[str, list[Envelope]] = {}
        for envelope in batch:
            roots.setdefault(self._channel(envelope[0].partition(":")[0]), []).append(envelope)

        def publish(client: Redis) -> bool:
            with client.pipeline(transaction=False) as pipeline:
                for channel, envelopes in roots.items():
                    for text in pack(self._origin, envelopes, MAX_PAYLOAD_BYTES):
                        pipeline.publish(channel, text)
                pipeline.execute()
            return True

        return self._link.call(publish, default=False)

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:
        """Listen whenever Redis is available; each start and each end of listening is a gap."""
        self._receive, self._gap = receive, gap
        self._thread.start()

    def subscribe(self, root: str) -> None:
        """See `Channel`."""
        channel = self._channel(root)
        if channel not in self._wanted:
            self._wanted = self._wanted | {channel}
            self._wake()

    def close(self) -> None:
        """End the thread and its connection; if Redis is silent, the reader takes up to WAIT_SECONDS."""
        self._closed.set()
        self._wake()
        self._thread.join(2 * PONG_SECONDS)

    def _channel(self, root: str) -> str:
        return f"{self._base}:{root}" if root else self._base

    def _wake(self) -> None:
        if self._thread.alive and self._link.available:
            self._link.enqueue(lambda client: client.publish(self._own, b""))

    def _run_connection(self) -> bool:
        """Run one connection until it ends; return whether to open another."""
        if self._closed.is_set():
            return False
        if not self._link.wait(WAIT_SECONDS):
            return True
        try:
            self._listen()
        finally:
            was_listening, self.is_listening = self.is_listening, False
            if was_listening and not self._closed.is_set():
                self._gap()
        self._closed.wait(RECONNECT_SECONDS if was_listening else RETRY_SECONDS)
        return True

    def _listen(self) -> None:
        """Listen until Redis is unavailable."""
        pubsub: PubSub | None = self._link.call(lambda client: client.pubsub(), None)  # type: ignore[no-untyped-call] # redis-py's
        if pubsub is None:
            return
        try:
            _Session(self, pubsub).run()
        except Exception as error:  # noqa: BLE001 - after any error the link probes whether Redis is unavailable
            self._link.probe_after(error)
        finally:
            pubsub.close()


class _Session:
    """One connection, from its first subscription to its end."""

    def __init__(self, channel: RedisChannel, pubsub: PubSub) -> None:
        self._channel = channel
        self._pubsub = pubsub
        self._subscribed: set[str] = set()
        self._outstanding = 0  # subscriptions not yet confirmed by the server
        self._asked_at: float | None = None

    def run(self) -> None:
        """Read messages until the channel is closed or Redis is unavailable. Raises when the connection fails."""
        channel = self._channel
        while not channel._closed.is_set() and channel._link.available:
            self._subscribe(channel._wanted - self._subscribed)
            message = self._pubsub.get_message(timeout=WAIT_SECONDS)
            if message is None:
                self._check_liveness()
            else:
                self._asked_at = None
                self._handle(message)

    def _subscribe(self, channels: set[str]) -> None:
        if channels:
            self._pubsub.subscribe(*channels)
            self._subscribed |= channels
            self._outstanding += len(channels)

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._outstanding -= 1
            if self._outstanding == 0:
                self._channel.is_listening = True
                self._channel._thread.report_success()
                self._channel._gap()
        elif message["type"] == "message" and message["data"]:
            self._channel._receive(message["data"])

    def _check_liveness(self) -> None:
        if self._asked_at is None:
            self._pubsub.ping()
            self._asked_at = monotonic()
        elif monotonic() - self._asked_at > PONG_SECONDS:
            raise TimeoutError("the Redis subscription does not answer a ping")
