"""Type conversion of columns, value by value.

A conversion never loses information silently: a value that does not fit becomes null, so the caller can count and show
these values. `1.5` is not an integer, `2` is not a boolean, `99999` is not an Int8. Text is parsed in the notation of
JSON and CSV files: numbers, `true/false/yes/no/1/0/t/f/y/n`, ISO 8601 dates and times; surrounding blanks are ignored.
For any other format, use `STRPTIME` in a derive stage.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from polars.datatypes import DataType

__all__ = ["conversion", "literal", "unconverted"]

_TRUTH = dict.fromkeys(("true", "yes", "t", "y", "1"), True) | dict.fromkeys(("false", "no", "f", "n", "0"), False)
_NAIVE_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_OFFSET_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%#z"
_TIME_FORMATS = ("%H:%M:%S%.f", "%H:%M")


def conversion(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    """Return the column as `target`, with null for values that do not fit, or None if no conversion exists.

    Text without an offset and naive datetimes are local times of the target's zone. A date becomes its midnight. A
    datetime that is cast to a date loses its time of day.
    """
    if source == target:
        return column
    if isinstance(source, pl.Null):
        return column.cast(target)
    if isinstance(source, pl.Categorical | pl.Enum):
        column, source = column.cast(pl.String), pl.String()
    for wanted, convert in _CONVERSIONS:
        if isinstance(target, wanted):
            return convert(column, source, target)
    return None


def unconverted(before: pl.Expr, after: pl.Expr) -> pl.Expr:
    """An expression that is true where the conversion turned a value into null."""
    return before.is_not_null() & after.is_null()


def literal(value: bool | float | str, dtype: DataType) -> pl.Expr | None:
    """Return a config value as a literal of a column's type (a date from ISO text), or None if it does not fit."""
    given = pl.Series([value])
    if isinstance(dtype, pl.Null):
        return pl.lit(value)
    fitted = conversion(pl.lit(value), given.dtype, dtype)
    found = None if fitted is None else pl.select(fitted).item()
    return None if found is None else pl.lit(found, dtype)


def _to_integer(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        text = column.str.strip_chars()
        number = text.cast(pl.Float64, strict=False)
        return pl.coalesce(text.cast(target, strict=False), _whole(number).cast(target, strict=False))
    if source.is_float() or source.is_decimal():
        return _whole(column).cast(target, strict=False)
    return column.cast(target, strict=False) if source.is_integer() or _is_boolean(source) else None


def _whole(number: pl.Expr) -> pl.Expr:
    return pl.when(number == number.floor()).then(number)


def _to_number(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        return column.str.strip_chars().cast(target, strict=False)
    if _is_boolean(source):  # polars cannot cast a boolean to a decimal
        return column.cast(pl.Int8).cast(target, strict=False)
    return column.cast(target, strict=False) if source.is_numeric() else None


def _to_text(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    plain = source.is_numeric() or isinstance(source, pl.String | pl.Boolean | pl.Date | pl.Datetime | pl.Time)
    return column.cast(pl.String).cast(target, strict=False) if plain else None


def _to_boolean(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        return column.str.strip_chars().str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=target)
    if source.is_numeric():
        return pl.when((column == 0) | (column == 1)).then(column == 1)
    return None


def _to_date(column: pl.Expr, source: DataType, _target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        text = column.str.strip_chars()
        midnight = text.str.strip_suffix("T00:00:00").str.strip_suffix(" 00:00:00")
        return midnight.str.to_date("%Y-%m-%d", strict=False)
    return column.dt.date() if isinstance(source, pl.Datetime) else None


def _to_datetime(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    if not isinstance(target, pl.Datetime):
        return None
    unit, zone = target.time_unit, target.time_zone
    if isinstance(source, pl.Date):
        return _localized(column.cast(pl.Datetime(unit)), zone)
    if isinstance(source, pl.String):
        text = column.str.strip_chars().str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        naive = pl.coalesce(text.str.to_datetime(f, time_unit=unit, strict=False) for f in _NAIVE_FORMATS)
        if zone is None:  # do not drop an offset silently: text with an offset needs a target with a zone
            return naive
        instant = text.str.to_datetime(_OFFSET_FORMAT, time_unit=unit, time_zone="UTC", strict=False)
        return pl.coalesce(instant.dt.convert_time_zone(zone), _localized(naive, zone))
    if not isinstance(source, pl.Datetime):
        return None
    column = column.dt.cast_time_unit(unit)
    if source.time_zone is None:
        return _localized(column, zone)
    return column.dt.convert_time_zone(zone) if zone else column.dt.replace_time_zone(None)


def _localized(column: pl.Expr, zone: str | None) -> pl.Expr:
    """Return local times of a zone; times that a clock change skips or repeats become null."""
    return column.dt.replace_time_zone(zone, ambiguous="null", non_existent="null") if zone else column


def _to_time(column: pl.Expr, source: DataType, _target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        text = column.str.strip_chars()
        return pl.coalesce(text.str.to_time(f, strict=False) for f in _TIME_FORMATS)
    return column.dt.time() if isinstance(source, pl.Datetime) else None


def _to_duration(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    return column.cast(target) if isinstance(source, pl.Duration) else None


def _to_binary(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    return column.cast(target) if isinstance(source, pl.String) else None


def _is_boolean(dtype: DataType) -> bool:
    return isinstance(dtype, pl.Boolean)


_INTEGERS = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128),
)
_CONVERSIONS: tuple[tuple[tuple[type[DataType], ...], Callable[[pl.Expr, DataType, DataType], pl.Expr | None]], ...] = (
    (_INTEGERS, _to_integer),
    ((pl.Float32, pl.Float64, pl.Decimal), _to_number),
    ((pl.String, pl.Categorical, pl.Enum), _to_text),
    ((pl.Boolean,), _to_boolean),
    ((pl.Date,), _to_date),
    ((pl.Datetime,), _to_datetime),
    ((pl.Time,), _to_time),
    ((pl.Duration,), _to_duration),
    ((pl.Binary,), _to_binary),
)
