"""The Redis server of the settings (address, connection pool, probe), and the id of the installation in its keys."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.config import Settings
from flexiroaster.errors import SettingsError, StoreError
from flexiroaster.store.database import Database

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RedisServer", "installation_id"]


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
            self._check_port_open()  # the import takes 0.1 s: skip it when there is no server
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

    def _check_port_open(self) -> None:
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


# --- the id of the installation, which separates the keys of two installations that share one Redis ------------------

_POSTGRES = """
SELECT s.system_identifier, d.oid FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
"""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def installation_id(database: Database) -> str:
    """Return twelve characters that identify the database, the same for every process and spelling of the address.

    Raises StoreError when the database does not answer.
    """
    try:
        parts = _sqlite_file(database) if database.is_sqlite else _postgres_database(database)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot identify the database: {error}") from error
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=6).hexdigest()


def _postgres_database(database: Database) -> tuple[object, ...]:
    with database.read() as connection:
        return ("postgresql", *connection.execute(text(_POSTGRES)).one())


def _sqlite_file(database: Database) -> tuple[object, ...]:
    """Identify the file by its inode: containers may use different paths for it, and cloned machines the same path.

    A new file can reuse the inode of a deleted one; a number in the file's header tells them apart.
    """
    number = _number_in_header(database)
    path = Path(database.engine.url.database or "")
    try:
        status = path.stat()
    except OSError:
        return ("sqlite", _machine(), os.getpid(), id(database))  # in memory: private to this process
    return ("sqlite", _machine(), status.st_dev, status.st_ino, number)


def _number_in_header(database: Database) -> int:
    """Return SQLite's `user_version`, which has no other use here. The first process draws it at random."""
    with database.read() as connection:
        if number := connection.exec_driver_sql("PRAGMA user_version").scalar_one():
            return int(number)
    with database.write() as connection:
        if not connection.exec_driver_sql("PRAGMA user_version").scalar_one():
            connection.exec_driver_sql(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1:d}")
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def _machine() -> str:
    try:
        return _BOOT_ID.read_text().strip()  # shared by all containers of one kernel
    except OSError:
        return socket.gethostname()
