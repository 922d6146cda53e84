"""Bulk inserts: COPY on PostgreSQL, executemany on SQLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table

from flexiroaster.operators.outputs.database.destination import Job
from flexiroaster.operators.outputs.rows import as_csv, as_tuples, batches

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load"]


def load(job: Job, table: Table, constants: Mapping[str, str] | None = None) -> int:
    """Insert all rows of the job into a table, each constant in a column of its own; return the number of rows.

    Columns are matched by name; columns that the data lacks get their defaults.
    """
    fixed = constants or {}
    names = [*job.columns, *fixed]
    extended = job.data.with_columns(pl.lit(value).alias(name) for name, value in fixed.items()).select(names)
    insert = _copy if job.dialect == "postgresql" else _insert
    return insert(job.connection, table, names, _reported(job, extended))


def _reported(job: Job, data: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    done = 0
    for batch in batches(data, job.batch_size):
        yield batch
        done += batch.height
        job.context.report_progress(done / job.rows, f"{done:,} of {job.rows:,} rows written")


def _copy(connection: Connection, table: Table, names: Sequence[str], data: Iterator[pl.DataFrame]) -> int:
    """COPY runs in the driver, so psycopg quotes the names: SQLAlchemy doubles `%`, which COPY takes literally."""
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    qualified = (table.schema, table.name) if table.schema else (table.name,)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')").format(
        sql.Identifier(*qualified), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    rows = 0
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in data:
            copy.write(as_csv(batch))
            rows += batch.height
    return rows


def _insert(connection: Connection, table: Table, names: Sequence[str], data: Iterator[pl.DataFrame]) -> int:
    """Give tuples to the compiled statement as they are: at some rows a microsecond, conversion would dominate."""
    compiled = table.insert().compile(connection, column_keys=list(names))
    order = compiled.positiontup
    rows = 0
    for batch in data:
        connection.exec_driver_sql(str(compiled), as_tuples(batch.select(order)))
        rows += batch.height
    return rows
