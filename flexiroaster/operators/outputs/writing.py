"""One effect on a database: claim its key, write, record what was done, and undo it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection

from flexiroaster.operators.base import Result, StageContext
from flexiroaster.operators.outputs import replace, upsert
from flexiroaster.operators.outputs.database import modes
from flexiroaster.operators.outputs.database.destination import Destination, Job, Undo, reflected, target, undo_table
from flexiroaster.operators.outputs.database.ledger import Entry
from flexiroaster.operators.outputs.effects import EFFECTS_TABLE, already, gone, outcome, withdrawn
from flexiroaster.operators.outputs.rows import count_rows
from flexiroaster.operators.outputs.statements import lock_name

if TYPE_CHECKING:
    import polars as pl

    from flexiroaster.operators.outputs.database.operator import DatabaseOutputConfig

__all__ = ["Request", "forget", "undo", "write"]

_MODES = {"append": modes, "replace": replace, "upsert": upsert}


class Request(NamedTuple):
    """The request of a stage: the URL of the database, the name of the table, and the rest of the config."""

    url: str
    table: str
    config: DatabaseOutputConfig


def write(request: Request, context: StageContext) -> Result:
    """Take effect once; return the effect of an earlier attempt if there is one."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    columns = context.table.collect_schema()
    rows = count_rows(context.table)
    if rows == 0 and not _empties(request, destination, columns):
        context.logger.warning("the input has no rows: nothing is written to table %r", request.table)
        return outcome({**_described(request, destination), "rows": 0, "undoable": True}, context)
    with destination.transaction() as connection:
        found = destination.ledger.claim(connection, context)
        if found is not None:
            if found.undone_at is not None:
                raise withdrawn(found.undone_at)
            return already(found.effect, found.created_at, context)
        job = _job(request, destination, connection, context, columns, rows)
        done = _MODES[request.config.mode].write(job)
        effect = {**_described(request, destination), "rows": rows, "undoable": True, **done}
        destination.ledger.record(connection, context, target(destination.schema, request.table), effect)
    context.logger.info("%s: wrote %s rows to table %r", request.config.mode, f"{rows:,}", request.table)
    return outcome(effect, context)


def _empties(request: Request, destination: Destination, columns: pl.Schema) -> bool:
    """Whether a write without rows makes a difference: only if it replaces an existing table."""
    if not columns or request.config.mode != "replace":
        return False
    with destination.transaction() as connection:
        return reflected(connection, request.table, destination.schema) is not None


def _described(request: Request, destination: Destination) -> dict[str, Any]:
    config = request.config
    place = {"connection": config.connection, "schema": destination.schema, "table": request.table}
    return {"kind": "database", "mode": config.mode.value, **place}


def _job(
    request: Request,
    destination: Destination,
    connection: Connection,
    context: StageContext,
    columns: pl.Schema,
    rows: int,
) -> Job:
    config = request.config
    return Job(
        connection=connection,
        context=context,
        schema=destination.schema,
        table=request.table,
        data=context.table,
        columns=columns,
        rows=rows,
        key=config.key,
        track=config.track,
        batch_size=config.batch_size,
    )


def undo(request: Request, effect: Mapping[str, Any], context: StageContext) -> str:
    """Revert the recorded effect once; return a sentence that says what was done."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    with destination.transaction() as connection:
        entry = destination.ledger.claim(connection, context)
        if entry is None:
            if effect.get("rows"):
                raise gone(f"its record in {EFFECTS_TABLE!r} no longer exists")
            destination.ledger.mark_undone(connection, context)
            return f"nothing was written to table {request.table!r}"
        if entry.undone_at is not None:
            return f"was already undone at {entry.undone_at}"
        task = Undo(connection, context, destination.schema, entry.effect["table"], entry.effect)
        place = target(task.schema, task.table)
        lock_name(connection, place)
        _refuse_if_overtaken(task, entry, destination.ledger.later(connection, entry, place))
        done: str = _MODES[entry.effect["mode"]].undo(task)
        _drop_kept(connection, destination, context)
        destination.ledger.mark_undone(connection, context)
    return done


def _refuse_if_overtaken(task: Undo, entry: Entry, later: list[Entry]) -> None:
    """Refuse an undo that would lose later effects, or that later effects build on: those must be undone first."""
    for other in later:
        ours, theirs = entry.effect["mode"], other.effect["mode"]
        if "replace" in {ours, theirs} or (ours == theirs == "upsert" and _overlap(task, other)):
            raise gone(
                f"stage {other.stage_id!r} of execution {other.execution_id} has since written to table "
                f"{task.table!r} ({theirs}): undo that first"
            )


def _overlap(task: Undo, other: Entry) -> bool:
    tables = undo_table(task.context), undo_table(other)
    return upsert.shared_keys(task.connection, task.schema, *tables, list(task.effect["key"]))


def forget(request: Request, context: StageContext) -> None:
    """Drop the table kept for the undo, and the record."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    with destination.transaction() as connection:
        _drop_kept(connection, destination, context)
        destination.ledger.remove(connection, context)


def _drop_kept(connection: Connection, destination: Destination, context: StageContext) -> None:
    kept = reflected(connection, undo_table(context), destination.schema)
    if kept is not None:
        kept.drop(connection, checkfirst=False)
