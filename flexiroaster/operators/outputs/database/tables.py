"""Table creation: the target if it is absent, and the tables that an undo needs."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Column, CreateTableAs, Index, MetaData, Select, String, Table, exists, false, select

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.outputs.bulk import load
from flexiroaster.operators.outputs.database.destination import Job
from flexiroaster.operators.outputs.effects import RESERVED_PREFIX, key_hash
from flexiroaster.operators.outputs.schema import check_names, sql_type

__all__ = [
    "TRACKING",
    "check_key",
    "create_as",
    "create_table",
    "fill_staging",
    "is_tracked",
    "keep",
    "refuse_null_keys",
    "refuse_tracking_columns",
]

TRACKING = ("_execution_id", "_stage_id")
"""The columns that record which stage of which execution wrote a row."""


def is_tracked(table: Table) -> bool:
    """Whether the rows of a table record which stage wrote them."""
    return all(name in table.c for name in TRACKING)


def create_table(job: Job, name: str, *, tracked: bool) -> Table:
    """Create a table for the job's data, with the job's key as primary key and, if `tracked`, the tracking columns.

    Raises StageError (data) for names that the database cannot use, or key columns that the data lacks.
    """
    check_names(job.columns, job.dialect)
    check_key(job)
    columns: list[Column[object]] = [
        Column(column, sql_type(dtype, job.dialect), primary_key=column in job.key, autoincrement=False)
        for column, dtype in job.columns.items()
    ]
    if tracked:
        refuse_tracking_columns(job)
        columns += [Column(column, String(255)) for column in TRACKING]
    table = Table(name, MetaData(), *columns, schema=job.schema)
    if tracked:
        Index(f"{RESERVED_PREFIX}ix_{key_hash(job.context)}", *(table.c[column] for column in TRACKING))
    table.create(job.connection)
    return table


def check_key(job: Job) -> None:
    """Refuse a key with columns that the data lacks. Raises StageError (data)."""
    absent = [column for column in job.key if column not in job.columns]
    if absent:
        listed = ", ".join(map(repr, absent))
        raise StageError(f"the data has no column {listed}, which `key` names", ErrorClass.DATA)


def refuse_null_keys(job: Job, staging: Table, key: Iterable[str]) -> None:
    """Refuse rows with missing values in the key. Raises StageError (data)."""
    for name in key:
        if job.connection.execute(select(exists(select(1).where(staging.c[name].is_(None))))).scalar_one():
            raise StageError(f"column {name!r} is a key of table {job.table!r} but has missing values", ErrorClass.DATA)


def refuse_tracking_columns(job: Job) -> None:
    """Refuse data that contains a tracking column. Raises StageError (data)."""
    clashing = [column for column in TRACKING if column in job.columns]
    if clashing:
        message = (
            f"the data has a column {clashing[0]!r}, which this output uses to record which stage wrote a row: "
            "drop or rename it, or set `track` to false"
        )
        raise StageError(message, ErrorClass.DATA)


def create_as(job: Job, name: str, query: Select[tuple[object, ...]], *, temporary: bool = False) -> Table:
    """Create a table with a query's columns, types and rows."""
    made = CreateTableAs(query, name, schema=None if temporary else job.schema, temporary=temporary)
    job.connection.execute(made)
    return made.table


def fill_staging(job: Job, like: Table) -> Table:
    """Create a temporary table with the job's rows, in columns typed as they are in `like`. The caller drops it."""
    columns = [like.c[name] for name in job.columns]
    staging = create_as(job, job.staging_table, select(*columns).where(false()), temporary=True)
    load(job, staging)
    return staging


def keep(job: Job, query: Select[tuple[object, ...]]) -> Table:
    """Keep a query's result, which an undo needs, in a table of its own."""
    return create_as(job, job.undo_table, query)
