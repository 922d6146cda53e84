"""The database, SQLite or PostgreSQL: connections, transactions and schema upgrades.

Reads and rare writes go through SQLAlchemy; each backend has its own statements for the journal's hot path (`Backend`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
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

__all__ = ["HEAD", "Database", "UnreachableError", "current_version", "open_database", "upgrade_schema"]


SQLITE_BUSY_SECONDS = 30

_UNREACHABLE_ERRORS = (
    OperationalError,
    InterfaceError,
    InternalError,  # PostgreSQL: a server that became a standby accepts no writes
    PoolTimeoutError,
    DisconnectionError,
    PendingRollbackError,
    ResourceClosedError,
)
"""Errors that mean the database is unreachable; a `DBAPIError` with an invalidated connection means it too."""

CANCEL_SECONDS = 5.0
"""The limit for asking PostgreSQL to cancel a statement that has no reader any more."""


class UnreachableError(StoreError):
    """The database does not answer, or not in time."""


class Database:
    """An engine with the conventions of this project: `read()` and `write()` are transactions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(flexiroaster_read=True)
        if not self.is_sqlite:  # BEGIN and COMMIT would cost two round trips, without benefit under READ COMMITTED
            self._reader = self._reader.execution_options(isolation_level="AUTOCOMMIT")
        self._reading: dict[int, Connection] = {}  # by thread id; a thread has one read at a time
        self._lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read: one consistent snapshot on SQLite, one per statement on PostgreSQL.

        Raises StoreError when the database is unreachable.
        """
        with _translated_errors(), self._reader.begin() as connection:
            thread = threading.get_ident()
            outer = self._reading.get(thread)
            self._reading[thread] = connection
            try:
                yield connection
            finally:
                self._end_read(thread, outer)

    def interrupt(self, thread: int) -> None:
        """Cancel the read of a thread (its `threading.get_ident`), if any; the thread gets a StoreError.

        Writes are never interrupted, because their outcome must be known.
        """
        with self._lock:  # keeps the connection assigned to that thread meanwhile
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
        """Open a transaction that may write; on SQLite it holds the write lock from its start.

        Raises StoreError when the database is unreachable, and ConflictError when a row violates a constraint.
        """
        with _translated_errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write_without_sync(self) -> Iterator[Connection]:
        """Open a transaction for work that is repeated if it is lost; its commit does not wait for the disk.

        A power cut may undo it, but only together with everything committed after it: the next ordinary commit puts all
        earlier ones on the disk too. Raises StoreError when the database is unreachable.
        """
        with _translated_errors(), self.engine.connect() as connection:
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

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """Connect to the configured database; create the embedded one if needed. Raises StoreError."""
    url = _url(settings)
    try:
        if url.get_backend_name() == "sqlite":
            return Database(_sqlite_engine(url, settings))
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **_pool(settings))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"cannot open the database: {error}") from error
    return Database(engine)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate errors of the database into those of this project; others pass unchanged.

    StoreError: the database is unreachable. InputError: it cannot store a value (a text with NUL, a number that is too
    large). ConflictError: another process wrote a conflicting row first.
    """
    try:
        yield
    except DataError as error:
        raise InputError(f"the database cannot store a value: {error.orig}") from error
    except IntegrityError as error:
        raise ConflictError(f"the write conflicts with stored data: {error.orig}") from error
    except (*_UNREACHABLE_ERRORS, DBAPIError) as error:
        if not isinstance(error, _UNREACHABLE_ERRORS) and not error.connection_invalidated:
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
        raise StoreError("DATABASE_URL: is not a URL that SQLAlchemy can parse") from error


def _sqlite_engine(url: URL, settings: Settings) -> Engine:
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        if not folder.is_dir():
            raise StoreError(f"DATABASE_URL: the folder {str(folder)!r} does not exist")
        engine = create_engine(url, **_pool(settings))
    else:
        engine = create_engine(url)  # in memory: one connection per thread
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # _begin_sqlite starts transactions explicitly
    connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_SECONDS * 1000:d}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; a writer takes the lock at once, since a deferred upgrade fails instead of waiting."""
    reads = connection.get_execution_options().get("flexiroaster_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


# --- schema upgrades, under a lock: once even if many processes start together ---------------------------------------

HEAD = "0006"
"""The newest migration; a test compares it with the migrations. The constant saves the import of Alembic at startup."""

_LOCK = 0x666C657869  # "flexi": the key of PostgreSQL's advisory lock, held until the transaction ends


def current_version(database: Database) -> str | None:
    """Return the schema version of the database; None if it has no tables of this project. Raises StoreError."""
    with database.read() as connection:
        return _version(connection)


def upgrade_schema(database: Database) -> bool:
    """Upgrade to HEAD; return whether this call changed the schema.

    Raises StoreError when the database is newer than this code, is unreachable or rejects the upgrade.
    """
    if current_version(database) == HEAD:
        return False
    try:
        with database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if _version(connection) == HEAD:  # another process upgraded it while we waited
                return False
            _run_alembic(connection)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot upgrade the database: {error.__cause__ or error}") from error
    return True


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the database is at version {_version(connection)!r}, which this release does not know: {error}"
        raise StoreError(message) from error
