"""Tables of a database output: checks of the data against them, their creation, and bulk inserts into them.

The tables are the target, a staging table for rows that cannot be inserted directly, and the undo table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import psycopg
from psycopg import sql
from sqlalchemy import (
    Column,
    Connection,
    CreateTableAs,
    Index,
    MetaData,
    Select,
    String,
    Table,
    exists,
    false,
    select,
    types,
)
from sqlalchemy.dialects.postgresql import INTERVAL

from flexiroaster.errors import data_error
from flexiroaster.operators.outputs.database.destination import WriteJob, undo_table
from flexiroaster.operators.outputs.effects import MAX_NAME_BYTES, RESERVED_PREFIX, key_hash
from flexiroaster.operators.outputs.rows import as_csv, as_tuples, batches
from flexiroaster.operators.tables import listed, missing_columns

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

__all__ = [
    "TRACKING",
    "check_columns",
    "check_key",
    "create_table",
    "create_undo_table",
    "fill_staging",
    "is_tracked",
    "load",
    "refuse_null_keys",
    "refuse_tracking_columns",
]

TRACKING = ("_execution_id", "_stage_id")
"""The columns that record which stage of which execution wrote a row."""

_SQLITE_EXACT_DIGITS = 15

_PLAIN: dict[type[pl.DataType], type[TypeEngine[Any]]] = {
    pl.Boolean: types.Boolean,
    pl.Int8: types.SmallInteger,
    pl.UInt8: types.SmallInteger,
    pl.Int16: types.SmallInteger,
    pl.UInt16: types.Integer,
    pl.Int32: types.Integer,
    pl.UInt32: types.BigInteger,
    pl.Int64: types.BigInteger,
    pl.Float16: types.REAL,
    pl.Float32: types.REAL,
    pl.Float64: types.Double,
    pl.Date: types.Date,
    pl.Time: types.Time,
    pl.Binary: types.LargeBinary,
}
_HUGE_DIGITS = {pl.UInt64: 20, pl.Int128: 39, pl.UInt128: 39}

_FAMILIES: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    (types.Boolean, "boolean"),
    (types.Integer, "integer"),
    (types.Numeric, "number"),
    (types.Float, "number"),
    (types.Date, "date"),
    (types.DateTime, "timestamp"),
    (types.Time, "time"),
    (types.Interval, "interval"),
    (INTERVAL, "interval"),
    (types.LargeBinary, "binary"),
    (types.ARRAY, "array"),
    (types.String, "text"),
)
_ACCEPTED = {"integer": {"integer", "number"}, "date": {"date", "timestamp"}, "text": {"text", "other"}}
"""Family of the data -> families of columns that take it, if there are others besides its own."""


def is_tracked(table: Table) -> bool:
    """Whether the rows of a table record which stage wrote them."""
    return all(name in table.c for name in TRACKING)


def create_table(job: WriteJob, name: str, *, tracked: bool) -> Table:
    """Create a table for the job's data, with the job's key as primary key and, if `tracked`, the tracking columns.

    Raises StageError (data) for names that the database cannot use, or key columns that the data lacks.
    """
    _check_names(job.columns, job.dialect)
    check_key(job)
    columns: list[Column[object]] = [
        Column(column, _sql_type(dtype, job.dialect), primary_key=column in job.key, autoincrement=False)
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


def check_key(job: WriteJob) -> None:
    """Refuse a key with columns that the data lacks. Raises StageError (data)."""
    absent = missing_columns(job.key, job.columns)
    if absent:
        raise data_error(f"the data has no column {listed(absent)}, which `key` names")


def refuse_null_keys(job: WriteJob, staging: Table, key: Iterable[str]) -> None:
    """Refuse rows with missing values in the key. Raises StageError (data)."""
    for name in key:
        if job.connection.execute(select(exists(select(1).where(staging.c[name].is_(None))))).scalar_one():
            raise data_error(f"column {name!r} is a key of table {job.table!r} but has missing values")


def refuse_tracking_columns(job: WriteJob) -> None:
    """Refuse data that contains a tracking column. Raises StageError (data)."""
    clashing = [column for column in TRACKING if column in job.columns]
    if clashing:
        raise data_error(
            f"the data has a column {clashing[0]!r}, which this output uses to record which stage wrote a row: "
            "drop or rename it, or set `track` to false"
        )


def _create_as(job: WriteJob, name: str, query: Select[tuple[object, ...]], *, temporary: bool = False) -> Table:
    """Create a table with a query's columns, types and rows."""
    made = CreateTableAs(query, name, schema=None if temporary else job.schema, temporary=temporary)
    job.connection.execute(made)
    return made.table


def fill_staging(job: WriteJob, like: Table) -> Table:
    """Create a temporary table with the job's rows, in columns typed as they are in `like`. The caller drops it."""
    columns = [like.c[name] for name in job.columns]
    staging = _create_as(
        job, f"{RESERVED_PREFIX}staging_{key_hash(job.context)}", select(*columns).where(false()), temporary=True
    )
    load(job, staging)
    return staging


def create_undo_table(job: WriteJob, query: Select[tuple[object, ...]]) -> Table:
    """Save a query's result, which an undo needs, in a table of its own."""
    return _create_as(job, undo_table(job.context), query)


# --- checks ---


def _sql_type(dtype: pl.DataType, dialect: str) -> TypeEngine[Any]:
    """The SQL type of a new column for data of a polars type."""
    kind = type(dtype)
    if kind in _PLAIN:
        return _PLAIN[kind]()
    if kind in _HUGE_DIGITS:
        return types.Numeric(_HUGE_DIGITS[kind], 0) if dialect == "postgresql" else types.BigInteger()
    if isinstance(dtype, pl.Datetime):
        return types.DateTime(timezone=dtype.time_zone is not None)
    if isinstance(dtype, pl.Duration):
        return types.Interval() if dialect == "postgresql" else types.BigInteger()
    if isinstance(dtype, pl.Decimal):
        exact = dialect == "postgresql" or dtype.precision <= _SQLITE_EXACT_DIGITS
        return types.Numeric(dtype.precision, dtype.scale) if exact else types.Text()
    return types.Text()


def _check_names(names: Iterable[str], dialect: str) -> None:
    """Refuse names that the database cannot give to columns. Raises StageError (data) that names them."""
    seen: dict[str, str] = {}
    for name in names:
        if not name or "\0" in name:
            raise data_error(f"a column named {name!r} cannot be written to a database; rename it")
        if dialect == "postgresql" and len(name.encode()) > MAX_NAME_BYTES:
            raise data_error(f"column {name!r}: PostgreSQL names have at most {MAX_NAME_BYTES} bytes; rename it")
        other = seen.setdefault(name.lower(), name)
        if dialect == "sqlite" and other != name:
            raise data_error(f"columns {other!r} and {name!r} are the same to SQLite, which ignores case; rename one")


def check_columns(schema: pl.Schema, table: Table, dialect: str) -> None:
    """Refuse data that does not fit the existing table. Raises StageError (data) that names the columns."""
    unknown = [name for name in schema if name not in table.c]
    if unknown:
        known = ", ".join(repr(column.name) for column in table.c)
        raise data_error(f"table {table.name!r} has no column {listed(unknown)}; it has {known}")
    missing = [column.name for column in table.c if column.name not in schema and _is_required(table, column.name)]
    if missing:
        raise data_error(
            f"table {table.name!r} needs a value for column {listed(missing)}, which the data does not have"
        )
    for name, dtype in schema.items():
        _check_type(name, dtype, table, dialect)


def _check_type(name: str, dtype: pl.DataType, table: Table, dialect: str) -> None:
    column = table.c[name]
    if column.computed is not None or (column.identity is not None and column.identity.always):
        raise data_error(f"table {table.name!r} computes column {name!r} itself; leave it out of the data")
    if isinstance(dtype, pl.Null) or isinstance(column.type, types.NullType):
        return
    wanted, actual = _family(_sql_type(dtype, dialect), dialect), _family(column.type, dialect)
    fits = actual == wanted or actual in _ACCEPTED.get(wanted, ()) or (actual == "number" and dtype.is_decimal())
    if not fits:
        raise data_error(
            f"column {name!r}: the data is {dtype}, but in table {table.name!r} it is {column.type}; cast it"
        )


def _family(of: TypeEngine[Any], dialect: str) -> str:
    found = next((family for kind, family in _FAMILIES if isinstance(of, kind)), "other")
    with_zone = found == "timestamp" and dialect == "postgresql" and getattr(of, "timezone", False)
    return "timestamp with time zone" if with_zone else found


def _is_required(table: Table, name: str) -> bool:
    column = table.c[name]
    filled = column.server_default is not None or column.identity is not None or column.computed is not None
    return not column.nullable and not filled and column is not table.autoincrement_column


# --- bulk inserts: COPY on PostgreSQL, executemany on SQLite ---


def load(job: WriteJob, table: Table, constants: Mapping[str, str] | None = None) -> int:
    """Insert all rows of the job into a table, each constant in a column of its own; return the number of rows.

    Columns are matched by name; columns that the data lacks get their defaults.
    """
    fixed = constants or {}
    names = [*job.columns, *fixed]
    extended = job.context.table.with_columns(pl.lit(value).alias(name) for name, value in fixed.items()).select(names)
    insert = _copy if job.dialect == "postgresql" else _insert
    return insert(job.connection, table, names, _reported(job, extended))


def _reported(job: WriteJob, data: pl.LazyFrame) -> Iterator[pl.DataFrame]:
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
