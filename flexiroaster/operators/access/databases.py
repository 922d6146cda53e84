"""SQLAlchemy engines for the databases of stages: one for each URL and process; PostgreSQL uses psycopg 3.

Transactions on SQLite begin with BEGIN IMMEDIATE, so a writer waits for the lock instead of failing halfway. For
read-only transactions, use `engine_for(url).execution_options(**READS)`.
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
"""Execution options for read-only transactions, which take no write lock on SQLite."""

_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
_MEMORY = {None, "", ":memory:"}

_engines: dict[str, Engine] = {}


class _EveryWord(set[str]):
    """Reserved words that include every word, so all names are quoted.

    SQLAlchemy's own lists lack some reserved words (`nothing`, `lateral`, ...).
    """

    def __contains__(self, _word: object) -> bool:
        return True


def normalize_url(url: str) -> URL:
    """Return the URL with every PostgreSQL scheme mapped to psycopg 3; other URLs are unchanged.

    Raises StageError (configuration) if the text is not a URL. The message holds no part of the text, because it may
    be a password.
    """
    try:
        return make_url(psycopg_url(url))
    except (ArgumentError, ValueError):
        pass  # raise outside the handler: as context of the new error, the text of this one may show parts of the URL
    raise StageError("the connection is not a URL that SQLAlchemy can read", ErrorClass.CONFIGURATION)


def engine_for(url: str) -> Engine:
    """Return the process's engine for a URL, created on first use; a forked child creates its own.

    Raises StageError (configuration) if the driver is not installed or the folder of an SQLite file does not exist.
    Connecting raises SQLAlchemy errors; their texts show no parameters and hide the password of the URL.
    """
    normal = normalize_url(url)
    key = normal.render_as_string(hide_password=False)
    if key not in _engines:
        engine = _sqlite_engine(normal) if normal.get_backend_name() == "sqlite" else _server_engine(normal)
        engine.dialect.identifier_preparer.reserved_words = _EveryWord()
        _engines[key] = engine
    return _engines[key]


def _forget_in_child() -> None:
    """Drop the parent's connections in a forked child, which must neither use nor close them."""
    for engine in _engines.values():
        engine.dispose(close=False)
    _engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _server_engine(url: URL) -> Engine:
    arguments = {}
    if url.get_backend_name() == "postgresql":
        # disable prepared statements: a pooler in transaction mode loses them
        arguments = {"connect_timeout": _CONNECT_SECONDS, "prepare_threshold": None}
    try:
        return create_engine(
            url, pool_size=1, max_overflow=9, pool_pre_ping=True, hide_parameters=True, connect_args=arguments
        )
    except (NoSuchModuleError, ImportError) as error:
        message = f"no database driver for {url.drivername!r}: {error}"
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
    connection.isolation_level = None  # _begin_sqlite begins the transactions
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:d}")
    with suppress(sqlite3.OperationalError):  # a read-only file keeps its journal mode
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction.

    A writer locks at once: a deferred transaction that upgrades its lock later fails instead of waiting.
    """
    reads = connection.get_execution_options().get("flexiroaster_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
