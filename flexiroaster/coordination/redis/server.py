"""The Redis server of the settings: address, connection pool and probe."""

from __future__ import annotations

import os
import socket
import sys
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from flexiroaster.config import Settings
from flexiroaster.errors import SettingsError

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RedisServer"]

MAX_CONNECTIONS = 50
HEALTH_CHECK_SECONDS = 30
"""A connection that was idle for longer is checked with a PING before its next use."""


class RedisServer:
    """The server at `REDIS_URL`. Raises SettingsError for an invalid URL, without quoting it.

    `probe_timeout` (s) is the limit for connecting and for the reply to a probe. The timeout of every reply is at most
    a third of a lease: a worker that has claimed an execution must not lose it while it waits for Redis.
    """

    def __init__(self, settings: Settings, probe_timeout: float) -> None:
        self._url = settings.redis_url
        self._parts = _parts(settings.redis_url)
        self._timeout = min(settings.redis_socket_timeout, settings.execution_lock_ttl / 3)
        self.probe_timeout = min(probe_timeout, self._timeout)

    @property
    def address(self) -> str:
        """Host and port, or the socket's path; without credentials."""
        if self._parts.scheme == "unix":
            return unquote(self._parts.path)
        return f"{self._parts.hostname or 'localhost'}:{self._parts.port or 6379}"

    def open(self) -> Redis:
        """Create a client with its pool; the first command connects. Raises OSError when no server listens there."""
        if "redis" not in sys.modules:
            self._knock()  # the import takes 0.1 s: skip it when there is no server
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        pool = redis.ConnectionPool.from_url(
            self._url,
            max_connections=MAX_CONNECTIONS,
            socket_timeout=self._timeout,
            socket_connect_timeout=self.probe_timeout,
            health_check_interval=HEALTH_CHECK_SECONDS,
            client_name=f"flexiroaster-{os.getpid()}",
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        )
        return redis.Redis(connection_pool=pool)

    def probe(self, client: Redis, key: str) -> float:
        """Return the milliseconds of one write over a new connection, which is then closed. Raises any error."""
        pool = client.connection_pool
        limits = {"socket_timeout": self.probe_timeout, "socket_connect_timeout": self.probe_timeout}
        connection = pool.connection_class(**{**pool.connection_kwargs, **limits})
        try:
            connection.connect()
            started = monotonic()
            connection.send_command("SET", key, "1", "PX", 1000)
            connection.read_response()
            return (monotonic() - started) * 1000
        finally:
            connection.disconnect()

    def describe(self, error: Exception) -> str:
        """Return the error as one line, without the URL's password."""
        line = " ".join(str(error).split()) or type(error).__name__
        for secret in {self._parts.password or "", *parse_qs(self._parts.query).get("password", ())} - {""}:
            line = line.replace(secret, "***").replace(unquote(secret), "***")
        return line

    def _knock(self) -> None:
        if self._parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
                plain.settimeout(self.probe_timeout)
                plain.connect(self.address)
            return
        host = self._parts.hostname or "localhost"
        name = host.encode() if host.isascii() else host  # bytes need no codec, whose import takes 4 ms
        address = (name, self._parts.port or 6379)
        socket.create_connection(address, self.probe_timeout).close()  # type: ignore[arg-type] # typeshed knows only str


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SettingsError("REDIS_URL: is not a valid URL") from error
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise SettingsError("REDIS_URL: must be a redis://, rediss:// or unix:// URL, or empty to disable Redis")
    return parts
