"""The table `flexiroaster_effects` of a destination: which stages took effect there, and which were undone.

The row is inserted first in the transaction that writes the data. A second attempt with the same key waits at that
insert. Then it finds the row of the first, or inserts its own if the first failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Engine, Index, MetaData, String, Table, Text, func, select
from sqlalchemy.dialects import postgresql, sqlite

from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.effects import EFFECTS_TABLE, now
from flexiroaster.operators.outputs.statements import lock_name

__all__ = ["Entry", "Ledger"]


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
        row = {
            "execution_id": context.execution_id,
            "stage_id": context.stage_id,
            "created_at": now(),
            "effect": "{}",
        }
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
