"""Names of column types in configs.

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
from typing import Annotated
from zoneinfo import available_timezones

import polars as pl
from polars.datatypes import DataType
from pydantic import AfterValidator

from flexiroaster.model.pipeline import near

__all__ = ["DtypeName", "accepts", "friendly_name", "parse_dtype"]

DECIMAL_PRECISION, DECIMAL_SCALE = 38, 9

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

_WIDTHS = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128),
    *(pl.Float32, pl.Float64),
)
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
        hint = near(wanted, known) or f"; known types: {', '.join(_FRIENDLY)} and polars types such as Int32"
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
        raise ValueError(f"unknown time zone {zone!r} in type {name!r}{near(zone, available_timezones())}")
    match (unit or "us").lower():
        case "ns":
            return pl.Datetime("ns", zone or None)
        case "ms":
            return pl.Datetime("ms", zone or None)
        case _:
            return pl.Datetime("us", zone or None)


def _decimal(name: str, precision: str, scale: str | None) -> DataType:
    digits, decimals = int(precision), int(scale or 0)
    if not 1 <= digits <= DECIMAL_PRECISION or decimals > digits:
        raise ValueError(f"type {name!r}: the precision must be 1 to {DECIMAL_PRECISION}, the scale 0 to the precision")
    return pl.Decimal(digits, decimals)
