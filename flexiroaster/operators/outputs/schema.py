"""Column types: the SQL type for each polars type, and the existing columns that can take it.

Where the two databases differ:

| polars                | PostgreSQL                     | SQLite                                          |
| --------------------- | ------------------------------ | ----------------------------------------------- |
| UInt64, (U)Int128     | NUMERIC(20 or 39)              | BIGINT; beyond 64 bits refused                  |
| Float, NaN            | REAL, DOUBLE PRECISION, NaN    | REAL, DOUBLE, NULL                              |
| Datetime              | TIMESTAMP (microseconds)       | DATETIME, ISO text                              |
| Datetime with a zone  | TIMESTAMP WITH TIME ZONE       | DATETIME, ISO text in UTC, `+00:00`             |
| Duration              | INTERVAL                       | BIGINT, microseconds                            |
| Decimal               | NUMERIC                        | NUMERIC up to 15 digits, beyond that exact text |
| List, Struct, Object  | TEXT, JSON                     | TEXT, JSON                                      |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import Table, types
from sqlalchemy.dialects.postgresql import INTERVAL

from flexiroaster.errors import ErrorClass, StageError

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

__all__ = ["check_columns", "check_names", "sql_type"]

_POSTGRES_NAME_BYTES = 63
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
_HUGE = {pl.UInt64: 20, pl.Int128: 39, pl.UInt128: 39}

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
_ACCEPTED = {
    "integer": {"integer", "number"},
    "date": {"date", "timestamp"},
    "text": {"text", "other"},
}
"""Family of the data -> families of columns that take it, if there are others besides its own."""


def sql_type(dtype: pl.DataType, dialect: str) -> TypeEngine[Any]:
    """The SQL type of a new column for data of a polars type."""
    kind = type(dtype)
    if kind in _PLAIN:
        return _PLAIN[kind]()
    if kind in _HUGE:
        return types.Numeric(_HUGE[kind], 0) if dialect == "postgresql" else types.BigInteger()
    if isinstance(dtype, pl.Datetime):
        return types.DateTime(timezone=dtype.time_zone is not None)
    if isinstance(dtype, pl.Duration):
        return types.Interval() if dialect == "postgresql" else types.BigInteger()
    if isinstance(dtype, pl.Decimal):
        exact = dialect == "postgresql" or dtype.precision <= _SQLITE_EXACT_DIGITS
        return types.Numeric(dtype.precision, dtype.scale) if exact else types.Text()
    return types.Text()


def check_names(names: Iterable[str], dialect: str) -> None:
    """Refuse names that the database cannot give to columns. Raises StageError (data) that names them."""
    seen: dict[str, str] = {}
    for name in names:
        if not name or "\0" in name:
            raise _data(f"a column named {name!r} cannot be written to a database; rename it")
        if dialect == "postgresql" and len(name.encode()) > _POSTGRES_NAME_BYTES:
            raise _data(f"column {name!r}: PostgreSQL names have at most {_POSTGRES_NAME_BYTES} bytes; rename it")
        other = seen.setdefault(name.lower(), name)
        if dialect == "sqlite" and other != name:
            raise _data(f"columns {other!r} and {name!r} are the same to SQLite, which ignores case; rename one")


def check_columns(schema: pl.Schema, table: Table, dialect: str) -> None:
    """Refuse data that does not fit the existing table. Raises StageError (data) that names the columns."""
    unknown = [name for name in schema if name not in table.c]
    if unknown:
        known = ", ".join(repr(column.name) for column in table.c)
        raise _data(f"table {table.name!r} has no column {_listed(unknown)}; it has {known}")
    missing = [column.name for column in table.c if column.name not in schema and _is_required(table, column.name)]
    if missing:
        raise _data(f"table {table.name!r} needs a value for column {_listed(missing)}, which the data does not have")
    for name, dtype in schema.items():
        _check_type(name, dtype, table, dialect)


def _check_type(name: str, dtype: pl.DataType, table: Table, dialect: str) -> None:
    column = table.c[name]
    if column.computed is not None or (column.identity is not None and column.identity.always):
        raise _data(f"table {table.name!r} computes column {name!r} itself; leave it out of the data")
    if isinstance(dtype, pl.Null) or isinstance(column.type, types.NullType):
        return
    wanted, there = _family(sql_type(dtype, dialect), dialect), _family(column.type, dialect)
    fits = there == wanted or there in _ACCEPTED.get(wanted, ()) or (there == "number" and dtype.is_decimal())
    if not fits:
        raise _data(f"column {name!r}: the data is {dtype}, but in table {table.name!r} it is {column.type}; cast it")


def _family(of: TypeEngine[Any], dialect: str) -> str:
    found = next((family for kind, family in _FAMILIES if isinstance(of, kind)), "other")
    with_zone = found == "timestamp" and dialect == "postgresql" and getattr(of, "timezone", False)
    return "timestamp with time zone" if with_zone else found


def _is_required(table: Table, name: str) -> bool:
    column = table.c[name]
    filled = column.server_default is not None or column.identity is not None or column.computed is not None
    return not column.nullable and not filled and column is not table.autoincrement_column


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _data(message: str) -> StageError:
    return StageError(message, ErrorClass.DATA)
