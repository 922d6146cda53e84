"""Databases of stages: an SQLAlchemy engine for each URL, and a guard that protects FlexiRoaster's own tables in them.

PostgreSQL uses psycopg 3. Transactions on SQLite begin with BEGIN IMMEDIATE, so a writer waits for the lock instead of
failing halfway. For read-only transactions, use `engine_for(url).execution_options(**READ_ONLY_OPTIONS)`.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import cast

from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from flexiroaster.config import psycopg_url
from flexiroaster.errors import StageError, configuration_error

__all__ = ["READ_ONLY_OPTIONS", "engine_for", "guard_query", "guard_writes", "normalize_url"]


READ_ONLY_OPTIONS = MappingProxyType({"flexiroaster_read": True})
"""Execution options for read-only transactions, which take no write lock on SQLite."""

_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
_MEMORY = {None, "", ":memory:"}

_engines: dict[str, Engine] = {}


class _AllWords(set[str]):
    """All words are reserved, so all names are quoted: SQLAlchemy's lists lack some words (`nothing`, `lateral`)."""

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
    raise configuration_error("the connection is not a URL that SQLAlchemy can read")


def engine_for(url: str) -> Engine:
    """Return the process's engine for a URL, created on first use; a forked child creates its own.

    Raises StageError (configuration) if the driver is not installed or the folder of an SQLite file does not exist.
    Connecting raises SQLAlchemy errors; their texts show no parameters and hide the password of the URL.
    """
    normal = normalize_url(url)
    key = normal.render_as_string(hide_password=False)
    if key not in _engines:
        engine = _sqlite_engine(normal) if normal.get_backend_name() == "sqlite" else _server_engine(normal)
        engine.dialect.identifier_preparer.reserved_words = _AllWords()
        _engines[key] = engine
    return _engines[key]


def _drop_engines_in_child() -> None:
    """Drop the parent's connections in a forked child, which must neither use nor close them."""
    for engine in _engines.values():
        engine.dispose(close=False)
    _engines.clear()


os.register_at_fork(after_in_child=_drop_engines_in_child)


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
        raise configuration_error(f"no database driver for {url.drivername!r}: {error}") from error


def _sqlite_engine(url: URL) -> Engine:
    if url.database not in _MEMORY and not (url.database or "").startswith("file:"):
        folder = Path(url.database or "").parent
        if not folder.is_dir():
            raise configuration_error(f"the folder {str(folder)!r} of the SQLite database does not exist")
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


# --- table guard ---

_SQLITE_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_SQLITE_CATALOG = {"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema", "sqlite_sequence"}
"""SQLite catalog tables without our data; sqlite_stat4 holds samples of rows, sqlite_dbpage holds all pages."""

_SQLITE_TABLES = text(
    "SELECT lower(name) FROM sqlite_master WHERE type = 'table' AND lower(name) IN :names"
).bindparams(bindparam("names", expanding=True))

_PROTECTED_RELATIONS = text("""
WITH RECURSIVE own AS (
  SELECT oid, relname::text AS name,
         count(*) OVER (PARTITION BY relnamespace) * 2 > cardinality(CAST(:names AS text[])) AS installed
  FROM pg_catalog.pg_class WHERE relname = ANY(CAST(:names AS text[])) AND relkind IN ('r', 'p')
), reaching(oid, name) AS (
  SELECT oid, name FROM own WHERE installed
  UNION
  SELECT next.oid, reaching.name FROM reaching CROSS JOIN LATERAL (
    SELECT inhrelid AS oid FROM pg_catalog.pg_inherits WHERE inhparent = reaching.oid
    UNION ALL
    SELECT v.oid FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
    WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid = reaching.oid AND v.relkind IN ('v', 'm')
  ) next
)
SELECT oid::bigint, name FROM reaching
UNION ALL
SELECT c.reltoastrelid::bigint, name FROM reaching JOIN pg_catalog.pg_class c USING (oid) WHERE c.reltoastrelid <> 0
""")
"""Our tables in schemas that hold an installation, with their child tables, views and TOAST tables."""

_STATISTICS = text("""
SELECT oid::bigint, relname::text AS name FROM pg_catalog.pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relname IN ('pg_statistic', 'pg_statistic_ext_data')
""")
"""The catalogs where PostgreSQL stores frequent values of our columns; `pg_stats` reads them."""

_LOCKED_RELATION = text("""
SELECT relation::bigint FROM pg_catalog.pg_locks
WHERE locktype = 'relation' AND pid = pg_backend_pid() AND relation = ANY(CAST(:oids AS oid[]))
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND (mode = 'RowExclusiveLock' OR NOT :written)
ORDER BY relation LIMIT 1
""")
"""INSERT, UPDATE, DELETE and COPY take ROW EXCLUSIVE; a foreign key check takes a weaker lock."""

_REFUSED_FUNCTIONS = text("""
SELECT proname::text FROM pg_catalog.pg_proc
WHERE lower(proname) = ANY(CAST(:words AS text[]))
  AND prorettype <> 'trigger'::regtype AND 'internal'::regtype <> ALL(proargtypes::oid[])
  AND (oid >= 16384 OR proname LIKE '%\\_to\\_xml%'
       OR provolatile = 'v' AND proname <> ALL(CAST(:harmless AS text[])))
ORDER BY proname LIMIT 1
""")
"""Functions that are not built in (initdb assigns oids below 16384), read a table by its name, or are volatile."""

_HARMLESS_FUNCTIONS = [
    *("array_sample", "array_shuffle", "clock_timestamp", "gen_random_uuid", "random", "random_normal", "setseed"),
    *("timeofday", "uuidv4", "uuidv7"),
]

_WORD = re.compile(r"[^\W\d][\w$]*")
"""Matches every identifier; only `U&"..."` can write an identifier in another form."""


@contextmanager
def guard_query(connection: Connection, query: str, tables: Collection[str]) -> Iterator[None]:
    """Guard a query that the caller executes and fetches inside this context.

    Raises StageError (configuration) if the query reads one of `tables` in an installation, or on SQLite if it attaches
    a database. On PostgreSQL the error may be raised only at the end of the context: do not use the rows before.
    """
    if connection.dialect.name == "sqlite":
        own = _own_tables_in_sqlite(connection, tables)
        with _sqlite_authorizer(connection, lambda action, table: _is_refused_read(action, table, own), "query reads"):
            yield
    elif connection.dialect.name == "postgresql":
        protected = _find_protected_relations(connection, tables)
        if protected:
            _refuse_functions(connection, query)
            protected |= {row.oid: row.name for row in connection.execute(_STATISTICS)}

            def after_declare(*_: object) -> None:
                """Check before the first FETCH: a query that fails on a row shows a value of it in its message."""
                _refuse_accessed(connection, protected, writes_only=False)

            event.listen(connection, "after_cursor_execute", after_declare, once=True)
        yield
        _refuse_accessed(connection, protected, writes_only=False)
    else:
        yield


@contextmanager
def guard_writes(connection: Connection, tables: Collection[str]) -> Iterator[None]:
    """Guard writes inside this context: a write to an installation's `tables` raises StageError (configuration).

    This covers indirect writes too: triggers, rules, partitions and tables that inherit from ours.
    """
    if connection.dialect.name == "sqlite":
        own = _own_tables_in_sqlite(connection, tables)
        if not own:
            yield
            return
        with _sqlite_authorizer(
            connection, lambda action, table: action in _SQLITE_WRITES and table in own, "output writes to"
        ):
            yield
    else:
        protected = _find_protected_relations(connection, tables)
        yield
        _refuse_accessed(connection, protected, writes_only=True)


def _own_tables_in_sqlite(connection: Connection, tables: Collection[str]) -> set[str]:
    """Return the lowercase names of our tables if the file holds an installation, else an empty set."""
    found = set(connection.execute(_SQLITE_TABLES, {"names": list(tables)}).scalars())
    return found if len(found) * 2 > len(tables) else set()


def _is_refused_read(action: int, table: str, own: Collection[str]) -> bool:
    if action == sqlite3.SQLITE_ATTACH:
        return True
    hidden = table in own or (table.startswith("sqlite_") and table not in _SQLITE_CATALOG)
    return bool(own) and action == sqlite3.SQLITE_READ and hidden


@contextmanager
def _sqlite_authorizer(connection: Connection, is_refused: Callable[[int, str], bool], subject: str) -> Iterator[None]:
    driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
    refused: list[str] = []

    def authorize(action: int, name: str | None, *_: str | None) -> int:
        table = (name or "").lower()
        if not is_refused(action, table):
            return sqlite3.SQLITE_OK
        if action != sqlite3.SQLITE_ATTACH:
            refused.append(table)
        return sqlite3.SQLITE_DENY

    driver.set_authorizer(authorize)
    try:
        yield
    except DBAPIError as error:
        if refused:
            raise _own_table_error(subject, refused[0]) from error
        raise
    finally:
        driver.set_authorizer(None)


def _find_protected_relations(connection: Connection, tables: Collection[str]) -> dict[int, str]:
    if not tables:
        return {}
    return {row.oid: row.name for row in connection.execute(_PROTECTED_RELATIONS, {"names": list(tables)})}


def _refuse_functions(connection: Connection, query: str) -> None:
    lower = query.lower()
    words = sorted(set(_WORD.findall(lower)))
    name = connection.execute(_REFUSED_FUNCTIONS, {"words": words, "harmless": _HARMLESS_FUNCTIONS}).scalar()
    if name is None and 'u&"' not in lower:
        return
    raise configuration_error(
        f"the query names {name or 'something by U&'!r}: in a database that holds FlexiRoaster's own tables, queries "
        "can call only built-in functions that change nothing and do not run text as SQL"
    )


def _refuse_accessed(connection: Connection, protected: Mapping[int, str], *, writes_only: bool) -> None:
    if not protected:
        return
    oid = connection.execute(_LOCKED_RELATION, {"oids": list(protected), "written": writes_only}).scalar()
    if oid is not None:
        raise _own_table_error("output writes to" if writes_only else "query reads", protected[oid])


def _own_table_error(subject: str, table: str) -> StageError:
    return configuration_error(f"the {subject} {table!r}: stages have no access to FlexiRoaster's own tables")
