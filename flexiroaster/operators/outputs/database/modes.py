"""`mode: append`: rows added to a table, and deleted again by the undo.

The undo finds its rows by the columns `_execution_id` and `_stage_id` if the table has them (tables created here have
them, with `track`), else by a kept copy of their primary keys. An append to a table with neither cannot be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, func, insert, select, tuple_

from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.bulk import load
from flexiroaster.operators.outputs.database.destination import Job, Undo
from flexiroaster.operators.outputs.database.tables import (
    TRACKING,
    create_table,
    fill_staging,
    is_tracked,
    keep,
    refuse_null_keys,
    refuse_tracking_columns,
)
from flexiroaster.operators.outputs.effects import count, gone
from flexiroaster.operators.outputs.schema import check_columns

__all__ = ["undo", "write"]


def write(job: Job) -> dict[str, Any]:
    """Append the rows, creating the table if it is absent; return the details of the effect."""
    job.lock(shared=job.existing() is not None)
    table = job.existing()  # check again: the table may have been created during the wait
    if table is None:
        created = create_table(job, job.table, tracked=job.track)
        return {"created": True, **_append(job, created)}
    check_columns(job.columns, table, job.dialect)
    return {"created": False, **_append(job, table)}


def _append(job: Job, table: Table) -> dict[str, Any]:
    if job.track and is_tracked(table):
        refuse_tracking_columns(job)
        load(job, table, dict(zip(TRACKING, (job.context.execution_id, job.context.stage_id), strict=True)))
        return {"undo": "tracking"}
    reason = _append_keeping_keys(job, table)
    return {"undo": "keys"} if reason is None else {"undo": None, "undoable": False, "reason": reason}


def _append_keeping_keys(job: Job, table: Table) -> str | None:
    """Append, and keep the primary keys of exactly these rows; return the reason if that is not possible."""
    key = list(table.primary_key.columns)
    if key and all(column.name in job.columns for column in key):
        _append_with_keys(job, table, key)
    elif key and job.dialect == "postgresql":
        _append_returning_keys(job, table, key)
    elif len(key) == 1 and key[0] is table.autoincrement_column:
        _append_above(job, table, key[0])
    else:
        load(job, table)
        columns = ", ".join(TRACKING)
        return f"table {job.table!r} has no primary key to find the rows by, and `track` recorded nothing in {columns}"
    return None


def _append_with_keys(job: Job, table: Table, key: Sequence[Column[Any]]) -> None:
    staging = fill_staging(job, table)
    names = [column.name for column in key]
    refuse_null_keys(job, staging, names)
    job.connection.execute(insert(table).from_select(list(job.columns), select(staging)))
    keep(job, select(*(staging.c[name] for name in names)))
    staging.drop(job.connection, checkfirst=False)


def _append_returning_keys(job: Job, table: Table, key: Sequence[Column[Any]]) -> None:
    """PostgreSQL returns the keys that it generates."""
    staging = fill_staging(job, table)
    kept = keep(job, select(*key).limit(0))
    added = insert(table).from_select(list(job.columns), select(staging)).returning(*key).cte("added")
    job.connection.execute(insert(kept).from_select([column.name for column in key], select(added)))
    staging.drop(job.connection, checkfirst=False)


def _append_above(job: Job, table: Table, key: Column[Any]) -> None:
    """SQLite assigns ids above the greatest existing one, and no other writer can run during this transaction."""
    greatest = job.connection.execute(select(func.coalesce(func.max(key), 0))).scalar_one()
    load(job, table)
    keep(job, select(key).where(key > greatest))


def undo(task: Undo) -> str:
    """Delete the appended rows."""
    table = task.existing()
    if table is None:
        return f"table {task.table!r} no longer exists, so there is nothing to undo"
    how = task.effect.get("undo")
    if how is None:
        raise gone(str(task.effect.get("reason")))
    condition = _tracked_rows(table, task.context) if how == "tracking" else _kept_rows(task, table)
    deleted = task.connection.execute(table.delete().where(condition)).rowcount
    return f"deleted {count(deleted, 'row')} from {task.table!r}{task.drop_if_created(table)}"


def _tracked_rows(table: Table, context: StageContext) -> ColumnElement[bool]:
    if not is_tracked(table):
        raise gone(f"table {table.name!r} no longer has the columns {', '.join(TRACKING)}")
    execution, stage = TRACKING
    return and_(table.c[execution] == context.execution_id, table.c[stage] == context.stage_id)


def _kept_rows(task: Undo, table: Table) -> ColumnElement[bool]:
    kept = task.kept()
    names = kept.c.keys()
    return tuple_(*(table.c[name] for name in names)).in_(select(kept))
