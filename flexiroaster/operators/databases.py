"""Engines for the databases that stages read from and write to: one a URL and process, PostgreSQL through psycopg 3.

Transactions on SQLite begin with BEGIN IMMEDIATE, so that a writer waits for its turn instead of failing half-way;
one that only reads asks for it: `engine_for(url).execution_options(**READS)`.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from flexiroaster.config import psycopg_url
from flexiroaster.errors import ErrorClass, StageError

__all__ = ["READS", "engine_for", "normalize_url"]

READS = MappingProxyType({"flexiroaster_read": True})
"""Execution options of an engine whose transactions only read: on SQLite they take no write lock."""

_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
_MEMORY = {None, "", ":memory:"}

_engines: dict[str, Engine] = {}


class _EveryWord(set[str]):
    """The reserved words, for quoting: all. SQLAlchemy's own lists lack some (`nothing`, `lateral`, ...)."""

    def __contains__(self, _word: object) -> bool:
        return True


def normalize_url(url: str) -> URL:
    """The URL with any spelling of PostgreSQL's scheme served by psycopg 3; others as they are.

    Raises StageError (configuration) for what is no URL; the message holds no part of it, since it may be a password.
    """
    try:
        return make_url(psycopg_url(url))
    except (ArgumentError, ValueError):
        pass  # raised below, outside: as the context of the new error its text would show parts of the URL
    raise StageError("the connection is not a URL that SQLAlchemy can read", ErrorClass.CONFIGURATION)


def engine_for(url: str) -> Engine:
    """The engine of a URL, made on first use, one a process: a forked child makes its own.

    Raises StageError (configuration) when there is no driver, or an SQLite file's folder does not exist. Connecting
    raises SQLAlchemy's errors; their texts show no parameters, and the URL only without its password.
    """
    normal = normalize_url(url)
    key = normal.render_as_string(hide_password=False)
    if key not in _engines:
        engine = _sqlite_engine(normal) if normal.get_backend_name() == "sqlite" else _server_engine(normal)
        engine.dialect.identifier_preparer.reserved_words = _EveryWord()
        _engines[key] = engine
    return _engines[key]


def _forget_in_child() -> None:
    """Connections of the parent are the parent's: a forked child must not use them, and not close them either."""
    for engine in _engines.values():
        engine.dispose(close=False)
    _engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _server_engine(url: URL) -> Engine:
    arguments = {}
    if url.get_backend_name() == "postgresql":
        # no prepared statements: a pooler in transaction mode would lose them
        arguments = {"connect_timeout": _CONNECT_SECONDS, "prepare_threshold": None}
    try:
        return create_engine(
            url, pool_size=1, max_overflow=9, pool_pre_ping=True, hide_parameters=True, connect_args=arguments
        )
    except (NoSuchModuleError, ImportError) as error:
        message = f"there is no driver for {url.drivername!r}: {error}"
        raise StageError(message, ErrorClass.CONFIGURATION) from error


def _sqlite_engine(url: URL) -> Engine:
    if url.database not in _MEMORY and not (url.database or "").startswith("file:"):
        folder = Path(url.database or "").parent
        if not folder.is_dir():
            message = f"the folder {str(folder)!r} of the SQLite database does not exist"
            raise StageError(message, ErrorClass.CONFIGURATION)
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:d}")
    with suppress(sqlite3.OperationalError):  # a file that may only be read keeps the mode it has
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: a deferred transaction that upgrades later fails instead of waiting."""
    reads = connection.get_execution_options().get("flexiroaster_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
