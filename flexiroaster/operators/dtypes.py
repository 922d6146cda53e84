"""Names of column types in configs, and the conversion of columns to these types, value by value.

There are two families. Friendly names denote a kind of value: `integer`, `number`, `string`, `boolean`, `date`,
`datetime`, `datetime[UTC]`, `time`, `duration`, `decimal`, `decimal(10,2)`, `binary`, `categorical`; they are
case-insensitive. Polars names (`Int32`, `UInt8`, `Float64`, ...) denote one representation.

`parse_dtype` returns the type of a new column. `accepts` returns whether an existing column satisfies a name. For
example, `integer` creates an Int64 column and accepts integers of any width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Literal
from zoneinfo import available_timezones

import polars as pl
from polars.datatypes import DataType
from pydantic import AfterValidator

from flexiroaster.model.validation_messages import suggestion_hint

__all__ = [
    "DtypeName",
    "accepts",
    "conversion",
    "conversion_failed",
    "describe_misfits",
    "friendly_name",
    "literal",
    "parse_dtype",
]


DECIMAL_PRECISION, DECIMAL_SCALE = 38, 9
_MAX_SHOWN_VALUES = 3

_FRIENDLY: Mapping[str, DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
    "time": pl.Time(),
    "duration": pl.Duration("us"),
    "decimal": pl.Decimal(DECIMAL_PRECISION, DECIMAL_SCALE),
    "binary": pl.Binary(),
    "categorical": pl.Categorical(),
}

_SYNONYMS: Mapping[str, str] = {
    "int": "integer",
    "float": "number",
    "double": "number",
    "text": "string",
    "str": "string",
    "utf8": "string",
    "bool": "boolean",
    "timestamp": "datetime",
    "category": "categorical",
    "bytes": "binary",
}

_INTEGERS = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128),
)
_WIDTHS = (*_INTEGERS, pl.Float32, pl.Float64)
_REPRESENTATIONS: Mapping[str, DataType] = {dtype.__name__.lower(): dtype() for dtype in _WIDTHS}

_FITS: Mapping[str, Callable[[DataType], bool]] = {
    "integer": lambda dtype: dtype.is_integer(),
    "number": lambda dtype: dtype.is_numeric(),
    "string": lambda dtype: isinstance(dtype, pl.String | pl.Categorical | pl.Enum),
    "datetime": lambda dtype: isinstance(dtype, pl.Datetime),
    "duration": lambda dtype: isinstance(dtype, pl.Duration),
    "decimal": lambda dtype: dtype.is_decimal(),
    "categorical": lambda dtype: isinstance(dtype, pl.Categorical | pl.Enum),
}
"""Friendly names that accept more than one representation."""

_DATETIME = re.compile(
    r"(?:datetime|timestamp)\s*\[\s*(?:(ns|us|μs|ms)\s*(?:,|(?=\])))?\s*([\w/+\-]*)\s*\]", re.IGNORECASE
)
_DECIMAL = re.compile(r"decimal\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", re.IGNORECASE)
_UNITS: Mapping[str, Literal["ns", "ms"]] = {"ns": "ns", "ms": "ms"}

_TRUTH = dict.fromkeys(("true", "yes", "t", "y", "1"), True) | dict.fromkeys(("false", "no", "f", "n", "0"), False)
_NAIVE_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_OFFSET_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%#z"
_TIME_FORMATS = ("%H:%M:%S%.f", "%H:%M")


@cache
def parse_dtype(name: str) -> DataType:
    """Return the polars type of a name.

    `decimal` is Decimal(38, 9) and `decimal(10)` has scale 0. `datetime` counts microseconds without a time zone;
    `datetime[UTC]`, `datetime[ms]` and `datetime[ms, Europe/Berlin]` set the zone or unit. Raises ValueError, with the
    nearest names, if the name is unknown.
    """
    wanted = name.strip()
    if match := _DATETIME.fullmatch(wanted):
        return _datetime(name, *match.groups())
    if match := _DECIMAL.fullmatch(wanted):
        return _decimal(name, *match.groups())
    key = _key(wanted)
    dtype = _FRIENDLY.get(key) or _REPRESENTATIONS.get(key)
    if dtype is None:
        known = [*_FRIENDLY, *_SYNONYMS, *(width.__name__ for width in _WIDTHS)]
        hint = suggestion_hint(wanted, known) or f"; known types: {', '.join(_FRIENDLY)} and polars types such as Int32"
        raise ValueError(f"unknown type {name!r}{hint}")
    return dtype


def _known(name: str) -> str:
    parse_dtype(name)
    return name


DtypeName = Annotated[str, AfterValidator(_known)]
"""The type of a config field that holds the name of a column type."""


def accepts(name: str, dtype: DataType) -> bool:
    """Return whether a column of this type satisfies the name; a Null column, which has no values, satisfies all."""
    wanted = parse_dtype(name)
    if isinstance(dtype, pl.Null):
        return True
    if isinstance(wanted, pl.Datetime) and wanted.time_zone:  # `datetime[UTC]` accepts any unit
        return isinstance(dtype, pl.Datetime) and dtype.time_zone == wanted.time_zone
    fits = _FITS.get(_key(name))
    return fits(dtype) if fits else dtype == wanted


def friendly_name(dtype: DataType) -> str:
    """Return the friendly name of a type, such as `integer` for Int32, or the polars name if there is none."""
    if isinstance(dtype, pl.Datetime):
        return f"datetime[{dtype.time_zone}]" if dtype.time_zone else "datetime"
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision},{dtype.scale})"
    for name in ("integer", "number", "categorical", "string", "duration"):
        if _FITS[name](dtype):
            return name
    return next((name for name, known in _FRIENDLY.items() if known == dtype), str(dtype))


def _key(name: str) -> str:
    lowered = name.strip().lower()
    return _SYNONYMS.get(lowered, lowered)


def _datetime(name: str, unit: str | None, zone: str) -> DataType:
    if zone and zone not in available_timezones():
        raise ValueError(f"unknown time zone {zone!r} in type {name!r}{suggestion_hint(zone, available_timezones())}")
    return pl.Datetime(_UNITS.get((unit or "").lower(), "us"), zone or None)


def _decimal(name: str, precision: str, scale: str | None) -> DataType:
    digits, decimals = int(precision), int(scale or 0)
    if not 1 <= digits <= DECIMAL_PRECISION or decimals > digits:
        raise ValueError(f"type {name!r}: the precision must be 1 to {DECIMAL_PRECISION}, the scale 0 to the precision")
    return pl.Decimal(digits, decimals)


# --- conversion ---


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


def conversion_failed(before: pl.Expr, after: pl.Expr) -> pl.Expr:
    """An expression that is true where the conversion turned a value into null."""
    return before.is_not_null() & after.is_null()


def describe_misfits(table: pl.LazyFrame, conversions: Mapping[str, pl.Expr], types: Mapping[str, str]) -> list[str]:
    """Find values that conversions turned into null, in one pass; describe the columns that have some."""
    measures = []
    for i, (name, after) in enumerate(conversions.items()):
        misfit = conversion_failed(pl.col(name), after)
        examples = pl.col(name).filter(misfit).unique(maintain_order=True).head(_MAX_SHOWN_VALUES).implode()
        measures += [misfit.sum().alias(f"{i}.count"), examples.alias(f"{i}.examples")]
    found = table.select(measures).collect(engine="streaming").row(0, named=True) if measures else {}
    problems = []
    for i, name in enumerate(conversions):
        if count := found[f"{i}.count"]:
            shown = ", ".join(repr(v) if isinstance(v, str) else str(v) for v in found[f"{i}.examples"])
            noun = "value does" if count == 1 else "values do"
            problems.append(f"column {name!r}: {count} {noun} not fit {types[name]}, such as {shown}")
    return problems


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
    return column.cast(target, strict=False) if source.is_integer() or isinstance(source, pl.Boolean) else None


def _whole(number: pl.Expr) -> pl.Expr:
    return pl.when(number == number.floor()).then(number)


def _to_number(column: pl.Expr, source: DataType, target: DataType) -> pl.Expr | None:
    if isinstance(source, pl.String):
        return column.str.strip_chars().cast(target, strict=False)
    if isinstance(source, pl.Boolean):  # polars cannot cast a boolean to a decimal
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
        return _localize(column.cast(pl.Datetime(unit)), zone)
    if isinstance(source, pl.String):
        text = column.str.strip_chars().str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        naive = pl.coalesce(text.str.to_datetime(f, time_unit=unit, strict=False) for f in _NAIVE_FORMATS)
        if zone is None:  # do not drop an offset silently: text with an offset needs a target with a zone
            return naive
        instant = text.str.to_datetime(_OFFSET_FORMAT, time_unit=unit, time_zone="UTC", strict=False)
        return pl.coalesce(instant.dt.convert_time_zone(zone), _localize(naive, zone))
    if not isinstance(source, pl.Datetime):
        return None
    column = column.dt.cast_time_unit(unit)
    if source.time_zone is None:
        return _localize(column, zone)
    return column.dt.convert_time_zone(zone) if zone else column.dt.replace_time_zone(None)


def _localize(column: pl.Expr, zone: str | None) -> pl.Expr:
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
