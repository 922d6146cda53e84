"""`mode: upsert`: rows inserted if their key is new, else updated; the former values are kept for the undo.

Columns that the data lacks stay as they are. The undo restores the columns that were written, even if others changed
them since, and deletes the rows whose key was new.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, and_, delete, exists, func, inspect, select, true, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import ReflectedIndex

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.outputs.database.destination import Job, Undo, reflected
from flexiroaster.operators.outputs.database.tables import check_key, create_table, fill_staging, keep, refuse_null_keys
from flexiroaster.operators.outputs.effects import count
from flexiroaster.operators.outputs.schema import check_columns
from flexiroaster.operators.outputs.statements import LockTable

__all__ = ["shared_keys", "undo", "write"]

_EXISTED = "_flexiroaster_existed"


def write(job: Job) -> dict[str, Any]:
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
    kept = _keep_former(job, table, staging)
    _merge(job, table, staging)
    staging.drop(job.connection, checkfirst=False)
    updated = job.connection.execute(select(func.count()).select_from(kept).where(kept.c[_EXISTED])).scalar_one()
    return {"created": created, "inserted": job.rows - updated, "updated": updated, "key": list(job.key)}


def _check_unique(job: Job, table: Table) -> None:
    """ON CONFLICT needs an index that makes the key unique."""
    inspector = inspect(job.connection)
    unique: list[set[str | None]] = [{column.name for column in table.primary_key.columns}]
    unique += [set(c["column_names"]) for c in inspector.get_unique_constraints(table.name, schema=table.schema)]
    for index in inspector.get_indexes(table.name, schema=table.schema):
        if index["unique"] and not _is_partial(index) and None not in index["column_names"]:
            unique.append(set(index["column_names"]))
    if set(job.key) not in unique:
        listed = ", ".join(job.key)
        message = f"table {job.table!r} has no primary key or unique index on ({listed}), which an upsert needs"
        raise StageError(message, ErrorClass.CONFIGURATION)


def _is_partial(index: ReflectedIndex) -> bool:
    options = index.get("dialect_options", {})
    return any(name.endswith("_where") and value is not None for name, value in options.items())


def _refuse_repeated_keys(job: Job, staging: Table) -> None:
    key = [staging.c[name] for name in job.key]
    repeated = select(*key, func.count().label("n")).group_by(*key).having(func.count() > 1).limit(1)
    row = job.connection.execute(repeated).first()
    if row is not None:
        *values, number = row
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(job.key, values, strict=True))
        raise StageError(f"the key {shown} occurs in {number} rows of the data; deduplicate it first", ErrorClass.DATA)


def _keep_former(job: Job, table: Table, staging: Table) -> Table:
    """The affected keys, the values they had, and whether they existed."""
    same = and_(*(table.c[name] == staging.c[name] for name in job.key))
    there = table.c[job.key[0]].is_not(None).label(_EXISTED)
    others = [table.c[name] for name in job.columns if name not in job.key]
    joined = staging.outerjoin(table, same)
    return keep(job, select(*(staging.c[name] for name in job.key), *others, there).select_from(joined))


def _merge(job: Job, table: Table, staging: Table) -> None:
    insert = (postgresql if job.dialect == "postgresql" else sqlite).insert
    rows = select(staging).where(true())  # without WHERE, SQLite takes ON for a join condition
    merge = insert(table).from_select(list(job.columns), rows)
    others = {name: merge.excluded[name] for name in job.columns if name not in job.key}
    key = [table.c[name] for name in job.key]
    if others:
        job.connection.execute(merge.on_conflict_do_update(index_elements=key, set_=others))
    else:
        job.connection.execute(merge.on_conflict_do_nothing(index_elements=key))


def undo(task: Undo) -> str:
    """Restore the updated rows, and delete the inserted ones."""
    table = task.existing()
    if table is None:
        return f"table {task.table!r} no longer exists, so there is nothing to undo"
    kept = task.kept()
    key = list(task.effect["key"])
    same = and_(*(table.c[name] == kept.c[name] for name in key))
    former = {column.name: column for column in kept.c if column.name not in {*key, _EXISTED}}
    restored = 0
    if former:
        restored = task.connection.execute(update(table).values(former).where(same, kept.c[_EXISTED])).rowcount
    new = select(*(kept.c[name] for name in key)).where(~kept.c[_EXISTED])
    added = tuple_(*(table.c[name] for name in key)).in_(new)
    deleted = task.connection.execute(delete(table).where(added)).rowcount
    done = f"restored {count(restored, 'row')} of {task.table!r} and deleted {deleted:,}"
    return done + task.drop_if_created(table)


def shared_keys(connection: Connection, schema: str | None, ours: str, theirs: str, key: list[str]) -> bool:
    """Whether two upserts affected a common row, according to the tables kept for their undo."""
    one, other = reflected(connection, ours, schema), reflected(connection, theirs, schema)
    if one is None or other is None or any(name not in other.c for name in key):
        return False
    same = and_(*(one.c[name] == other.c[name] for name in key))
    return bool(connection.execute(select(exists(select(1).select_from(one.join(other, same))))).scalar_one())
