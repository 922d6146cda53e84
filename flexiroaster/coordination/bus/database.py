"""The bus transports over the database.

PostgreSQL: LISTEN on a dedicated connection, NOTIFY over the pool. SQLite: processes send nothing, and poll the file
for commits of others.
"""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
import sqlite3
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.coordination.bus.base import Envelope, pack
from flexiroaster.store.database import Database
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["PostgresChannel", "SqliteChannel"]

logger = logging.getLogger(__name__)

# --- PostgreSQL ------------------------------------------------------------------------------------------------------

MAX_PAYLOAD_BYTES = 7900  # PostgreSQL rejects 8000
CHECK_SECONDS = 10.0
"""Interval between two check notifications to itself, which reveal a pooler that drops notifications."""

ANSWER_SECONDS = 2.0
GAP_SECONDS = 2.0
"""Interval between two gaps while messages may be lost."""

RECONNECT_SECONDS = 1.0

_NOTIFY = text("SELECT pg_notify('flexiroaster', p) FROM unnest(CAST(:payloads AS text[])) AS p")
_LISTEN = "LISTEN flexiroaster"
_CHECK = "check:"


class PostgresChannel:
    """One notification channel for all topics. `may_miss_messages` tells whether others publish elsewhere."""

    name = "postgresql"

    def __init__(
        self, database: Database, origin: str, may_miss_messages: Callable[[], bool], threads: Threads | None = None
    ) -> None:
        self._database = database
        self._origin = origin
        self._may_miss_messages = may_miss_messages
        self._closed = threading.Event()
        self._wake_send, self._wake_receive = socket.socketpair()
        self._thread = SupervisedThread(
            self._run_connection,
            name="flexiroaster-bus-postgres",
            closed=self._closed,
            threads=threads,
            pause=RECONNECT_SECONDS,
        )
        self._unavailable = False
        self._receive: Callable[[bytes], None] = lambda _text: None
        self._gap: Callable[[], None] = lambda: None

    def send(self, batch: Sequence[Envelope]) -> bool:
        """Notify in one transaction; return False when the database is unreachable."""
        return self._notify([part.decode() for part in pack(self._origin, batch, MAX_PAYLOAD_BYTES)])

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:
        """Start to listen, and reconnect whenever the connection is lost."""
        self._receive, self._gap = receive, gap
        self._thread.start()

    def subscribe(self, root: str) -> None:
        """Do nothing: the channel carries all topics."""

    def close(self) -> None:
        """End the thread and its connection."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._wake_send.send(b"\0")
        self._thread.join(5)
        self._wake_send.close()
        if not self._thread.alive:
            self._wake_receive.close()

    def _notify(self, payloads: list[str]) -> bool:
        try:
            with self._database.engine.connect() as connection:
                autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
                autocommit.execute(_NOTIFY, {"payloads": payloads})
        except SQLAlchemyError as error:
            logger.debug("cannot notify: %s", error)
            return False
        return True

    def _run_connection(self) -> bool:
        """Run one connection until it ends; return whether to open another."""
        if self._closed.is_set():
            return False
        try:
            with self._connect() as connection:
                self._report_available()
                _Session(self, connection).run()
        except (psycopg.Error, OSError) as error:
            self._report_unavailable(error)
            self._closed.wait(RECONNECT_SECONDS)
        return True

    def _connect(self) -> psycopg.Connection:
        engine = self._database.engine
        arguments, options = engine.dialect.create_connect_args(engine.url)
        options = {"connect_timeout": 5, **options}
        connection = psycopg.connect(*arguments, **options, autocommit=True, application_name="flexiroaster-bus")
        try:
            connection.execute(_LISTEN)
        except BaseException:
            connection.close()
            raise
        return connection

    def _report_unavailable(self, error: Exception) -> None:
        if not self._unavailable:
            self._unavailable = True
            logger.warning("the bus cannot listen to PostgreSQL: %s", " ".join(str(error).split()))

    def _report_available(self) -> None:
        self._thread.report_success()
        if self._unavailable:
            self._unavailable = False
            logger.info("the bus listens to PostgreSQL again")


class _Session:
    """One connection, from LISTEN to its end."""

    def __init__(self, channel: PostgresChannel, connection: psycopg.Connection) -> None:
        self._channel = channel
        self._connection = connection
        self._next_check = monotonic()
        self._next_gap = monotonic()
        self._check = ""  # the check notification that has not arrived yet
        self._answer_due = 0.0
        self._notifications_lost = False

    def run(self) -> None:
        """Listen until the channel is closed. Raises when the connection fails."""
        channel = self._channel
        channel._gap()
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(channel._wake_receive, selectors.EVENT_READ)
            while not channel._closed.is_set():
                self._run_due_checks()
                if selector.select(self._wait()):
                    self._read()

    def _wait(self) -> float:
        """Seconds until the next check, timeout or gap is due."""
        due = self._answer_due if self._check else self._next_check
        if self._notifications_lost or self._channel._may_miss_messages():
            due = min(due, self._next_gap)
        return min(max(0.0, due - monotonic()), GAP_SECONDS)

    def _run_due_checks(self) -> None:
        now = monotonic()
        if self._check and now > self._answer_due:
            self._check_failed()
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self._answer_due = now + ANSWER_SECONDS
            self._check = f"{_CHECK}{self._channel._origin}:{secrets.token_hex(4)}"
            if not self._channel._notify([self._check]):
                self._check = ""  # it was not sent, so it cannot arrive
        if (self._notifications_lost or self._channel._may_miss_messages()) and now >= self._next_gap:
            self._next_gap = now + GAP_SECONDS
            self._channel._gap()

    def _check_failed(self) -> None:
        self._check = ""
        if not self._notifications_lost:
            self._notifications_lost = True
            logger.warning("notifications do not arrive (is a pooler in between?): the bus polls the database instead")
        self._connection.execute(_LISTEN)  # raises if the connection is dead
        self._read()

    def _read(self) -> None:
        for notification in self._connection.notifies(timeout=0):
            payload = notification.payload
            if not payload.startswith(_CHECK):
                self._channel._receive(payload.encode())
            elif payload == self._check:
                self._check = ""
                self._notifications_lost = False


# --- SQLite ----------------------------------------------------------------------------------------------------------

POLL_SECONDS = 0.025
"""Polling at this interval takes about 0.7 % of a core."""

SLOW_POLL_SECONDS = 1.0
"""Interval while Redis delivers the messages, and polling only covers processes that cannot reach it."""

OWN_WRITES_SECONDS = 0.25
"""Minimum interval between two gaps while this process writes, since its own commits look like those of others."""


class SqliteChannel:
    """Polls `PRAGMA data_version` (a few microseconds) on a dedicated connection; each change is a gap.

    `has_other_channel` tells whether messages arrive over another channel.
    """

    name = "sqlite"

    def __init__(self, path: str, has_other_channel: Callable[[], bool], threads: Threads | None = None) -> None:
        self._path = path
        self._has_other_channel = has_other_channel
        self._closed = threading.Event()
        self._thread = SupervisedThread(
            self._watch,
            name="flexiroaster-bus-sqlite",
            closed=self._closed,
            threads=threads,
            purpose="the bus cannot watch the database",
            expected=(sqlite3.Error,),
            pause=SLOW_POLL_SECONDS,
        )
        self._gap: Callable[[], None] = lambda: None
        self._written_at = float("-inf")
        self._gap_at = float("-inf")

    def send(self, batch: Sequence[Envelope]) -> bool:  # noqa: ARG002 - the commit is the message
        """Send nothing: the other processes see the commit."""
        self._written_at = monotonic()
        return True

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:  # noqa: ARG002 - only gaps
        """Start to poll."""
        self._gap = gap
        self._thread.start()

    def subscribe(self, root: str) -> None:
        """Do nothing: a gap concerns all topics."""

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        self._thread.join(5)

    def _watch(self) -> bool:
        """Poll over one connection until the channel is closed."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=1)
        try:
            seen: int | None = None
            while not self._closed.is_set():
                version = connection.execute("PRAGMA data_version").fetchone()[0]
                if version != seen and self._gap_is_due():
                    seen = version
                    self._gap_at = monotonic()
                    self._gap()
                    self._thread.report_success()
                if self._has_other_channel():
                    self._closed.wait(SLOW_POLL_SECONDS)
                else:
                    sleep(POLL_SECONDS)  # costs two thirds of a wait for an event
        finally:
            connection.close()
        return False

    def _gap_is_due(self) -> bool:
        now = monotonic()
        return now - self._written_at > OWN_WRITES_SECONDS or now - self._gap_at > OWN_WRITES_SECONDS
