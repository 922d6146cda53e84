"""The write modes `append`, `replace` and `upsert`, and the undo of each.

- `append` adds rows. The undo deletes them by the columns `_execution_id` and `_stage_id` if the table has them (tables
  created here have them, with `track`), else by a copy of their primary keys. An append to a table with neither cannot
  be undone.
- `replace` builds a new table and swaps it in by renaming; the former one is kept for the undo.
- `upsert` inserts rows whose key is new and updates the others; their former values are kept for the undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    inspect,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import ReflectedIndex

from flexiroaster.errors import configuration_error, data_error
from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.database.destination import UndoJob, WriteJob, reflect_table, undo_table
from flexiroaster.operators.outputs.database.ledger import Entry, LockTable, dependents, rename
from flexiroaster.operators.outputs.database.tables import (
    TRACKING,
    check_columns,
    check_key,
    create_table,
    create_undo_table,
    fill_staging,
    is_tracked,
    load,
    refuse_null_keys,
    refuse_tracking_columns,
)
from flexiroaster.operators.outputs.effects import RESERVED_PREFIX, cannot_undo_error, count_noun, key_hash

__all__ = [
    "append_rows",
    "have_common_rows",
    "replace_table",
    "undo_append",
    "undo_replace",
    "undo_upsert",
    "upsert_rows",
]

_EXISTED = "_flexiroaster_existed"


# --- append ---


def append_rows(job: WriteJob) -> dict[str, Any]:
    """Append the rows, creating the table if it is absent; return the details of the effect."""
    job.lock(shared=job.existing() is not None)
    table = job.existing()  # check again: the table may have been created during the wait
    if table is None:
        created = create_table(job, job.table, tracked=job.track)
        return {"created": True, **_append(job, created)}
    check_columns(job.columns, table, job.dialect)
    return {"created": False, **_append(job, table)}


def _append(job: WriteJob, table: Table) -> dict[str, Any]:
    if job.track and is_tracked(table):
        refuse_tracking_columns(job)
        load(job, table, dict(zip(TRACKING, (job.context.execution_id, job.context.stage_id), strict=True)))
        return {"undo": "tracking"}
    reason = _append_keeping_keys(job, table)
    return {"undo": "keys"} if reason is None else {"undo": None, "undoable": False, "reason": reason}


def _append_keeping_keys(job: WriteJob, table: Table) -> str | None:
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


def _append_with_keys(job: WriteJob, table: Table, key: Sequence[Column[Any]]) -> None:
    staging = fill_staging(job, table)
    names = [column.name for column in key]
    refuse_null_keys(job, staging, names)
    job.connection.execute(insert(table).from_select(list(job.columns), select(staging)))
    create_undo_table(job, select(*(staging.c[name] for name in names)))
    staging.drop(job.connection, checkfirst=False)


def _append_returning_keys(job: WriteJob, table: Table, key: Sequence[Column[Any]]) -> None:
    """PostgreSQL returns the keys that it generates."""
    staging = fill_staging(job, table)
    saved = create_undo_table(job, select(*key).limit(0))
    added = insert(table).from_select(list(job.columns), select(staging)).returning(*key).cte("added")
    job.connection.execute(insert(saved).from_select([column.name for column in key], select(added)))
    staging.drop(job.connection, checkfirst=False)


def _append_above(job: WriteJob, table: Table, key: Column[Any]) -> None:
    """SQLite assigns ids above the greatest existing one, and no other writer can run during this transaction."""
    greatest = job.connection.execute(select(func.coalesce(func.max(key), 0))).scalar_one()
    load(job, table)
    create_undo_table(job, select(key).where(key > greatest))


def undo_append(job: UndoJob) -> str:
    """Delete the appended rows."""
    table = job.existing()
    if table is None:
        return f"table {job.table!r} no longer exists, so there is nothing to undo"
    how = job.effect.get("undo")
    if how is None:
        raise cannot_undo_error(str(job.effect.get("reason")))
    condition = _tracked_rows(table, job.context) if how == "tracking" else _kept_rows(job, table)
    deleted = job.connection.execute(table.delete().where(condition)).rowcount
    return f"deleted {count_noun(deleted, 'row')} from {job.table!r}{job.drop_if_created(table)}"


def _tracked_rows(table: Table, context: StageContext) -> ColumnElement[bool]:
    if not is_tracked(table):
        raise cannot_undo_error(f"table {table.name!r} no longer has the columns {', '.join(TRACKING)}")
    execution, stage = TRACKING
    return and_(table.c[execution] == context.execution_id, table.c[stage] == context.stage_id)


def _kept_rows(job: UndoJob, table: Table) -> ColumnElement[bool]:
    saved = job.undo_data()
    names = saved.c.keys()
    return tuple_(*(table.c[name] for name in names)).in_(select(saved))


# --- replace ---


def replace_table(job: WriteJob) -> dict[str, Any]:
    """Replace the table with a new one that has the rows; return the details of the effect."""
    new = create_table(job, f"{RESERVED_PREFIX}new_{key_hash(job.context)}", tracked=False)
    load(job, new)
    job.lock()
    former = job.existing()
    if former is not None:
        if names := dependents(job.connection, former):
            listed = ", ".join(names)
            raise configuration_error(
                f"table {job.table!r} cannot be replaced: {listed} would keep using the former one; use `upsert`"
            )
        rename(job.connection, former, undo_table(job.context))
    rename(job.connection, new, job.table)
    return {"created": former is None}


def undo_replace(job: UndoJob) -> str:
    """Put the former table back in place, or drop the new one if there was none."""
    current = job.existing()
    former = None if job.effect.get("created") else job.undo_data()
    if current is not None:
        current.drop(job.connection, checkfirst=False)
    if former is None:
        return f"dropped table {job.table!r}, which this stage had created"
    rename(job.connection, former, job.table)
    return f"restored the former table {job.table!r} (it was kept as {undo_table(job.context)!r})"


# --- upsert ---


def upsert_rows(job: WriteJob) -> dict[str, Any]:
    """Merge the rows by key, creating the table if it is absent; return the details of the effect."""
    check_key(job)
    job.lock()
    table = job.existing()
    created = table is None
    if table is None:
        table = create_table(job, job.table, tracked=False)
    check_columns(job.columns, table, job.dialect)
    _check_unique(job, table)
    staging = fill_staging(job, table)
    refuse_null_keys(job, staging, job.key)
    _refuse_repeated_keys(job, staging)
    if job.dialect == "postgresql":  # no other writer between the copy of the former rows and the merge
        job.connection.execute(LockTable(table, "SHARE ROW EXCLUSIVE"))
    saved = _keep_former(job, table, staging)
    _merge(job, table, staging)
    staging.drop(job.connection, checkfirst=False)
    updated = job.connection.execute(select(func.count()).select_from(saved).where(saved.c[_EXISTED])).scalar_one()
    return {"created": created, "inserted": job.rows - updated, "updated": updated, "key": list(job.key)}


def _check_unique(job: WriteJob, table: Table) -> None:
    """ON CONFLICT needs an index that makes the key unique."""
    inspector = inspect(job.connection)
    unique: list[set[str | None]] = [{column.name for column in table.primary_key.columns}]
    unique += [set(c["column_names"]) for c in inspector.get_unique_constraints(table.name, schema=table.schema)]
    for index in inspector.get_indexes(table.name, schema=table.schema):
        if index["unique"] and not _is_partial(index) and None not in index["column_names"]:
            unique.append(set(index["column_names"]))
    if set(job.key) not in unique:
        listed = ", ".join(job.key)
        raise configuration_error(
            f"table {job.table!r} has no primary key or unique index on ({listed}), which an upsert needs"
        )


def _is_partial(index: ReflectedIndex) -> bool:
    options = index.get("dialect_options", {})
    return any(name.endswith("_where") and value is not None for name, value in options.items())


def _refuse_repeated_keys(job: WriteJob, staging: Table) -> None:
    key = [staging.c[name] for name in job.key]
    repeated = select(*key, func.count().label("n")).group_by(*key).having(func.count() > 1).limit(1)
    row = job.connection.execute(repeated).first()
    if row is not None:
        *values, number = row
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(job.key, values, strict=True))
        raise data_error(f"the key {shown} occurs in {number} rows of the data; deduplicate it first")


def _keep_former(job: WriteJob, table: Table, staging: Table) -> Table:
    """The affected keys, the values they had, and whether they existed."""
    same = and_(*(table.c[name] == staging.c[name] for name in job.key))
    existed = table.c[job.key[0]].is_not(None).label(_EXISTED)
    others = [table.c[name] for name in job.columns if name not in job.key]
    joined = staging.outerjoin(table, same)
    return create_undo_table(job, select(*(staging.c[name] for name in job.key), *others, existed).select_from(joined))


def _merge(job: WriteJob, table: Table, staging: Table) -> None:
    insert = (postgresql if job.dialect == "postgresql" else sqlite).insert
    rows = select(staging).where(true())  # without WHERE, SQLite takes ON for a join condition
    merge = insert(table).from_select(list(job.columns), rows)
    others = {name: merge.excluded[name] for name in job.columns if name not in job.key}
    key = [table.c[name] for name in job.key]
    if others:
        job.connection.execute(merge.on_conflict_do_update(index_elements=key, set_=others))
    else:
        job.connection.execute(merge.on_conflict_do_nothing(index_elements=key))


def undo_upsert(job: UndoJob) -> str:
    """Restore the updated rows, and delete the inserted ones."""
    table = job.existing()
    if table is None:
        return f"table {job.table!r} no longer exists, so there is nothing to undo"
    saved = job.undo_data()
    key = list(job.effect["key"])
    same = and_(*(table.c[name] == saved.c[name] for name in key))
    former = {column.name: column for column in saved.c if column.name not in {*key, _EXISTED}}
    restored = 0
    if former:
        restored = job.connection.execute(update(table).values(former).where(same, saved.c[_EXISTED])).rowcount
    new = select(*(saved.c[name] for name in key)).where(~saved.c[_EXISTED])
    added = tuple_(*(table.c[name] for name in key)).in_(new)
    deleted = job.connection.execute(delete(table).where(added)).rowcount
    done = f"restored {count_noun(restored, 'row')} of {job.table!r} and deleted {deleted:,}"
    return done + job.drop_if_created(table)


def have_common_rows(job: UndoJob, other: Entry) -> bool:
    """Whether this upsert and a later one affected a common row, according to their undo tables."""
    ours, theirs = (reflect_table(job.connection, undo_table(key), job.schema) for key in (job.context, other))
    key = job.effect["key"]
    if ours is None or theirs is None or any(name not in theirs.c for name in key):
        return False
    same = and_(*(ours.c[name] == theirs.c[name] for name in key))
    return bool(job.connection.execute(select(exists(select(1).select_from(ours.join(theirs, same))))).scalar_one())
