"""Rows for output: in batches of exact size, and as values that a destination accepts."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import polars as pl

from flexiroaster.errors import data_error

__all__ = ["as_csv", "as_records", "as_tuples", "batches", "count_rows"]

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_NESTED = (pl.List, pl.Array, pl.Struct, pl.Object)
_UNBOUNDED = (pl.UInt64, pl.Int128, pl.UInt128)
_DATE = "%Y-%m-%d"
_TIME = "%H:%M:%S%.6f"


def count_rows(table: pl.LazyFrame) -> int:
    """Count the rows; 0 for a table without columns."""
    if not table.collect_schema():
        return 0
    return int(table.select(pl.len()).collect(engine="streaming").item())


def batches(table: pl.LazyFrame, size: int) -> Iterator[pl.DataFrame]:
    """Yield the rows in order, `size` at a time (fewer in the last batch); the same table gives the same batches.

    Holds a few batches in memory, however long the table is.
    """
    rest: pl.DataFrame | None = None
    for chunk in table.collect_batches(chunk_size=size, maintain_order=True):
        rest = chunk if rest is None else pl.concat([rest, chunk])
        whole = rest.height - rest.height % size
        yield from rest.head(whole).iter_slices(size) if whole else ()
        rest = rest.slice(whole)
    if rest is not None and rest.height:
        yield rest


def as_csv(batch: pl.DataFrame) -> bytes:
    """Write lines for `COPY ... (FORMAT csv)`: NULL is an empty field without quotes, the empty string one with quotes.

    Raises StageError (data) for text with NUL characters, which PostgreSQL cannot store.
    """
    for series in batch:
        if isinstance(series.dtype, _TEXT):
            _refuse_nul(series)
    plain = batch.with_columns(_for_postgresql(series) for series in batch)
    return plain.write_csv(include_header=False, quote_style="non_numeric").encode()


def as_tuples(batch: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Convert to rows of values that sqlite3 can bind. Raises StageError (data) for integers beyond 64 bits."""
    return batch.with_columns(_for_sqlite(series) for series in batch).rows()


def as_records(batch: pl.DataFrame) -> Iterator[bytes]:
    """Yield each row as a JSON object: times in ISO 8601; NaN and infinity, which JSON cannot represent, as null.

    Decimals and integers beyond 64 bits become strings, which keeps them exact; bytes become base64.
    """
    wide = pl.selectors.by_dtype(pl.Int128, pl.UInt128)
    for record in batch.with_columns(wide.cast(pl.String)).iter_rows(named=True):
        yield orjson.dumps(record, default=_plain)


def _for_postgresql(series: pl.Series) -> pl.Series:
    dtype = series.dtype
    if isinstance(dtype, pl.Duration):
        return series.dt.total_microseconds().cast(pl.String) + " microseconds"
    if isinstance(dtype, pl.Binary):
        return ("\\x" + series.bin.encode("hex")).alias(series.name)
    return _common(series)


def _for_sqlite(series: pl.Series) -> pl.Series:
    dtype = series.dtype
    if isinstance(dtype, pl.Duration):
        return series.dt.total_microseconds()
    if isinstance(dtype, pl.Decimal):
        return series.cast(pl.String)
    if isinstance(dtype, _UNBOUNDED):
        _refuse_huge(series)
    return _common(series)


def _common(series: pl.Series) -> pl.Series:
    dtype = series.dtype
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return series.dt.to_string(f"{_DATE} {_TIME}")
        return series.dt.convert_time_zone("UTC").dt.to_string(f"{_DATE} {_TIME}+00:00")
    if isinstance(dtype, pl.Date):
        return series.dt.to_string(_DATE)
    if isinstance(dtype, pl.Time):
        return series.dt.to_string(_TIME)
    if isinstance(dtype, _NESTED):
        return pl.Series(series.name, [_json(value) for value in series.to_list()], dtype=pl.String)
    return series.cast(pl.String) if isinstance(dtype, pl.Null) else series


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value, default=_plain).decode()


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Convert a value that orjson does not support."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return _iso_duration(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, pl.Series):
        return value.to_list()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _iso_duration(value: timedelta) -> str:
    """ISO 8601 in days and seconds: `P1DT2.5S`, `-PT0.25S`."""
    sign, size = ("-", -value) if value < timedelta(0) else ("", value)
    seconds = f"{size.seconds}.{size.microseconds:06d}".rstrip("0").rstrip(".")
    return f"{sign}P{size.days}DT{seconds}S" if size.days else f"{sign}PT{seconds}S"


def _refuse_nul(series: pl.Series) -> None:
    if series.cast(pl.String).str.contains("\0", literal=True).any():
        raise data_error(
            f"column {series.name!r} holds text with a NUL character, which PostgreSQL cannot store; replace it"
        )


def _refuse_huge(series: pl.Series) -> None:
    if series.cast(pl.Int64, strict=False).null_count() > series.null_count():
        raise data_error(
            f"column {series.name!r} holds an integer beyond 64 bits, which SQLite cannot store; cast it to text"
        )
