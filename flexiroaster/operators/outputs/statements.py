"""SQL statements that SQLAlchemy lacks, as constructs, so that SQLAlchemy quotes all names in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, func, inspect, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.ddl import ExecutableDDLElement

__all__ = ["LockTable", "dependents", "lock_name", "rename"]

_DEPENDENTS = text("""
WITH target AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relname = :name AND n.nspname = :schema
)
SELECT DISTINCT 'view ' || v.relname
FROM target JOIN pg_depend d ON d.refobjid = target.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
JOIN pg_class v ON v.oid = r.ev_class AND v.oid <> target.oid
UNION
SELECT DISTINCT 'table ' || f.relname
FROM target JOIN pg_constraint k ON k.confrelid = target.oid AND k.contype = 'f' AND k.conrelid <> target.oid
JOIN pg_class f ON f.oid = k.conrelid
ORDER BY 1
""")


class LockTable(ExecutableDDLElement):
    """`LOCK TABLE name IN mode MODE`, held until the end of the transaction; PostgreSQL only."""

    def __init__(self, table: Table, mode: str) -> None:
        self.table = table
        self.mode = mode


@compiles(LockTable, "postgresql")
def _lock_table(element: LockTable, compiler: Any, **_: Any) -> str:  # noqa: ANN401 - as SQLAlchemy types it
    return f"LOCK TABLE {compiler.preparer.format_table(element.table)} IN {element.mode} MODE"


class _RenameTable(ExecutableDDLElement):
    def __init__(self, table: Table, new_name: str) -> None:
        self.table = table
        self.new_name = new_name


@compiles(_RenameTable)
def _rename_table(element: _RenameTable, compiler: Any, **_: Any) -> str:  # noqa: ANN401 - as SQLAlchemy types it
    quote = compiler.preparer.quote
    return f"ALTER TABLE {compiler.preparer.format_table(element.table)} RENAME TO {quote(element.new_name)}"


def rename(connection: Connection, table: Table, new_name: str) -> None:
    """Rename a table within its schema; views and triggers elsewhere keep the names that they use."""
    with _references_kept(connection):
        connection.execute(_RenameTable(table, new_name))


@contextmanager
def _references_kept(connection: Connection) -> Iterator[None]:
    """Without this, SQLite rewrites the views that read the table to follow the rename."""
    if connection.dialect.name != "sqlite":
        yield
        return
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        yield
    finally:
        connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")


def lock_name(connection: Connection, name: str, *, shared: bool = False) -> None:
    """Wait until no other transaction holds this name (if `shared`: holds it exclusively); hold it until the end.

    It protects a table that does not exist yet, which a table lock cannot. On SQLite the transaction already holds the
    database.
    """
    if connection.dialect.name != "postgresql":
        return
    number = int.from_bytes(hashlib.sha256(f"flexiroaster {name}".encode()).digest()[:8], "big", signed=True)
    lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
    connection.execute(select(lock(number)))


def dependents(connection: Connection, table: Table) -> list[str]:
    """Views that read a table and tables whose foreign keys refer to it: they would stay with it after a rename.

    On SQLite views follow the name, so only foreign keys count.
    """
    if connection.dialect.name == "postgresql":
        return list(connection.execute(_DEPENDENTS, {"name": table.name, "schema": table.schema}).scalars())
    found = inspect(connection).get_multi_foreign_keys()
    return sorted(
        f"table {name}"
        for (_, name), keys in found.items()
        if name != table.name and any(key["referred_table"].lower() == table.name.lower() for key in keys)
    )
