"""One database, SQLite or PostgreSQL, and the few places where they differ.

Reads and rare writes go through SQLAlchemy; the journal's hot statements are each backend's own (`Backend`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    PendingRollbackError,
    ResourceClosedError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from flexiroaster.config import HOME, Settings, psycopg_url
from flexiroaster.errors import ConflictError, InputError, StoreError
from flexiroaster.store.changes import Landed, NewExecution, Transition

__all__ = ["Backend", "Database", "UnreachableError", "open_database"]

SQLITE_BUSY_SECONDS = 30

_AWAY = (
    OperationalError,
    InterfaceError,
    InternalError,  # PostgreSQL: a server that became a standby takes no writes
    PoolTimeoutError,
    DisconnectionError,
    PendingRollbackError,
    ResourceClosedError,
)
"""What says that the database cannot be reached; so does a `DBAPIError` that lost its connection."""

CANCEL_SECONDS = 5.0
"""How long PostgreSQL may take to be told that nobody waits for a statement any more."""


class UnreachableError(StoreError):
    """The database did not answer in time, whatever it was asked."""


class Backend(Protocol):
    """What the journal needs of a database: apply changes in one transaction on a connection of its own."""

    def apply(
        self, new: Sequence[NewExecution], transitions: Sequence[Transition], doubtful: Collection[str] = ()
    ) -> dict[str, Landed]:
        """Apply all in one transaction; what landed, by execution.

        The changes of the executions that are `doubtful` may have been written before: they count as landed then.
        Raises UnreachableError when the database does not answer, StoreError when it refuses a change: then nothing is
        written. After any other exception that is not known, and the next call works all the same.
        """

    def close(self) -> None:
        """Give the connection back."""


class Database:
    """An engine with the conventions of ours: `read()` and `write()` are transactions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(flexiroaster_read=True)
        if not self.is_sqlite:  # BEGIN and COMMIT would be two round trips, and READ COMMITTED gives nothing for them
            self._reader = self._reader.execution_options(isolation_level="AUTOCOMMIT")
        self._reading: dict[int, Connection] = {}  # by thread: one read at a time in each
        self._lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Only reads: on SQLite one consistent view, on PostgreSQL one for each statement.

        Raises StoreError when the database is not there.
        """
        with _reached(), self._reader.begin() as connection:
            thread = threading.get_ident()
            outer = self._reading.get(thread)
            self._reading[thread] = connection
            try:
                yield connection
            finally:
                self._end_read(thread, outer)

    def interrupt(self, thread: int) -> None:
        """End the read that a thread (by its `threading.get_ident`) is waiting for, if it is; that raises StoreError
        there. Writes are never interrupted: whether they landed must be known.
        """
        with self._lock:  # the connection is that thread's as long as we look at it
            connection = self._reading.get(thread)
            driver: Any = None if connection is None else connection.connection.driver_connection
            if isinstance(driver, sqlite3.Connection):
                driver.interrupt()
            elif driver is not None:
                driver.cancel_safe(timeout=CANCEL_SECONDS)

    def _end_read(self, thread: int, outer: Connection | None) -> None:
        with self._lock:
            if outer is None:
                del self._reading[thread]
            else:
                self._reading[thread] = outer

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; on SQLite it holds the write lock from its start.

        Raises StoreError, too, and ConflictError where a row contradicts what is stored.
        """
        with _reached(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write_again(self) -> Iterator[Connection]:
        """A transaction for what is done again if it is lost: it does not wait for the disk. Raises StoreError, too.

        A power cut may take it back, with nothing that was committed after it left: the next ordinary commit is on
        the disk together with all before it.
        """
        with _reached(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            if self.is_sqlite:
                driver.execute("PRAGMA synchronous = NORMAL")
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                    yield connection
            finally:
                if self.is_sqlite:
                    driver.execute("PRAGMA synchronous = FULL")

    def backend(self) -> Backend:
        """The journal's own connection to this database."""
        if self.is_sqlite:
            from flexiroaster.store.sqlite import SqliteBackend

            return SqliteBackend(self.engine)
        from flexiroaster.store.postgres import PostgresBackend

        return PostgresBackend(self.engine)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """Connect to the database of the settings; the embedded one is created. Raises StoreError."""
    url = _url(settings)
    try:
        if url.get_backend_name() == "sqlite":
            return Database(_sqlite_engine(url, settings))
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **_pool(settings))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"cannot open the database: {error}") from error
    return Database(engine)


@contextmanager
def _reached() -> Iterator[None]:
    """Raise an error of ours for a database that is not there, for a value that it cannot hold (a text with NUL, a
    number too large), and for a row that another process wrote first; other errors stay as they are.
    """
    try:
        yield
    except DataError as error:
        raise InputError(f"a value is not one that the database can hold: {error.orig}") from error
    except IntegrityError as error:
        raise ConflictError(f"the write contradicts what is stored: {error.orig}") from error
    except (*_AWAY, DBAPIError) as error:
        if not isinstance(error, _AWAY) and not error.connection_invalidated:
            raise
        raise StoreError(f"cannot reach the database: {getattr(error, 'orig', None) or error}") from error


def _pool(settings: Settings) -> dict[str, Any]:
    return {"pool_size": settings.database_pool_size, "max_overflow": settings.database_max_overflow}


def _url(settings: Settings) -> URL:
    if not settings.database_url:
        HOME.mkdir(exist_ok=True)
        return URL.create("sqlite", database=str((HOME / "flexiroaster.db").absolute()))
    try:
        return make_url(psycopg_url(settings.database_url))
    except ArgumentError as error:
        raise StoreError("DATABASE_URL: is not a URL that SQLAlchemy can read") from error


def _sqlite_engine(url: URL, settings: Settings) -> Engine:
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        if not folder.is_dir():
            raise StoreError(f"DATABASE_URL: the folder {str(folder)!r} does not exist")
        engine = create_engine(url, **_pool(settings))
    else:
        engine = create_engine(url)  # in memory, where each thread has one connection
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000:d}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: a deferred transaction that upgrades later fails instead of waiting."""
    reads = connection.get_execution_options().get("flexiroaster_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
