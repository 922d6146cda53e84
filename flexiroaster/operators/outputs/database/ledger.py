"""The table `flexiroaster_effects` of a destination: which stages took effect there, and which were undone.

The row is inserted first in the transaction that writes the data. A second attempt with the same key waits at that
insert. Then it finds the row of the first, or inserts its own if the first failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.ddl import ExecutableDDLElement

from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.effects import EFFECTS_TABLE, now

__all__ = ["Entry", "Ledger", "LockTable", "dependents", "lock_name", "rename"]


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


class Entry(NamedTuple):
    """One row: an effect of a stage. `position` orders the effects on one target."""

    execution_id: str
    stage_id: str
    created_at: str
    effect: dict[str, Any]
    undone_at: str | None
    position: int


class Ledger:
    """The effects table of one schema of a destination."""

    def __init__(self, schema: str | None) -> None:
        self._schema = schema
        self._table = Table(
            EFFECTS_TABLE,
            MetaData(schema=schema),
            Column("execution_id", String(255), primary_key=True),
            Column("stage_id", String(255), primary_key=True),
            Column("created_at", String(32), nullable=False),
            Column("effect", Text, nullable=False),
            Column("undone_at", String(32)),
            Column("target", Text),
            Column("position", BigInteger),
            Index(f"{EFFECTS_TABLE}_target", "target", "position"),
        )

    def ensure(self, engine: Engine) -> None:
        """Create the table if it is absent, in a transaction of its own."""
        with engine.begin() as connection:
            lock_name(connection, f"{self._schema}.{EFFECTS_TABLE}")
            self._table.create(connection, checkfirst=True)

    def claim(self, connection: Connection, context: StageContext) -> Entry | None:
        """Insert the row of this key; return None on success, else the existing row."""
        insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
        row = {"execution_id": context.execution_id, "stage_id": context.stage_id, "created_at": now(), "effect": "{}"}
        claim = insert(self._table).values(row).on_conflict_do_nothing().returning(self._table.c.stage_id)
        return None if connection.execute(claim).first() else self._read(connection, context)

    def record(self, connection: Connection, context: StageContext, target: str, effect: Mapping[str, Any]) -> None:
        """Fill in the claimed row. The caller holds the lock on the target's name, which makes the position correct."""
        latest = select(func.coalesce(func.max(self._table.c.position), 0)).where(self._table.c.target == target)
        position = connection.execute(latest).scalar_one() + 1
        values = {"effect": json.dumps(effect), "target": target, "position": position}
        connection.execute(self._table.update().where(*self._key(context)).values(values))

    def mark_undone(self, connection: Connection, context: StageContext) -> None:
        """Record the time of the undo; the row stays, so that no late attempt takes effect again."""
        connection.execute(self._table.update().where(*self._key(context)).values(undone_at=now()))

    def later(self, connection: Connection, entry: Entry, target: str) -> list[Entry]:
        """The later effects on the same target that are not undone, oldest first."""
        columns = self._table.c
        after = (columns.target == target) & (columns.position > entry.position) & columns.undone_at.is_(None)
        rows = connection.execute(self._table.select().where(after).order_by(columns.position))
        return [_entry(row._mapping) for row in rows]

    def remove(self, connection: Connection, context: StageContext) -> None:
        """Delete the row of this key, if it exists."""
        connection.execute(self._table.delete().where(*self._key(context)))

    def _read(self, connection: Connection, context: StageContext) -> Entry:
        found = connection.execute(self._table.select().where(*self._key(context)).with_for_update())
        return _entry(found.one()._mapping)

    def _key(self, context: StageContext) -> tuple[Any, Any]:
        columns = self._table.c
        return columns.execution_id == context.execution_id, columns.stage_id == context.stage_id


def _entry(row: Mapping[Any, Any]) -> Entry:
    return Entry(
        row["execution_id"],
        row["stage_id"],
        row["created_at"],
        json.loads(row["effect"]),
        row["undone_at"],
        row["position"] or 0,
    )


# --- statements that SQLAlchemy lacks, as constructs, so that it quotes all names in them ---


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
    if connection.dialect.name != "sqlite":
        connection.execute(_RenameTable(table, new_name))
        return
    # without this, SQLite rewrites the views that read the table to follow the rename
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        connection.execute(_RenameTable(table, new_name))
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
