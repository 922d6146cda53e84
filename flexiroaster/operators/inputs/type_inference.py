"""Type inference for columns of Python values: from all values, never from a sample, and without loss.

    shape = Shape()
    shape.observe([1, None, 2.5])
    shape.dtype()             # Float64
    series("price", [1, None, 2.5], shape)

Ints and floats become floats, dates and timestamps timestamps, objects structs, and arrays lists. Other mixtures become
text, in which nested values are JSON. Integers beyond 64 bits become text, so they stay exact. Decimals have at most 38
digits; longer ones become text if all are whole numbers, and are rounded to floats otherwise. Missing values are null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, auto
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from flexiroaster.errors import data_error, first_line

__all__ = ["Kind", "Shape", "Spool", "series", "table_of"]


_MAX_FIELDS = 256
_MAX_NESTING = 16
_MAX_DIGITS = 38

Converter = Callable[[Any], Any]


class Kind(Enum):
    """The kind of a single value, before the type of its column is known."""

    BOOLEAN = auto()
    INTEGER = auto()
    FLOAT = auto()
    DECIMAL = auto()
    TEXT = auto()
    BINARY = auto()
    DATE = auto()
    TIMESTAMP = auto()
    INSTANT = auto()  # a timestamp with a time zone
    TIME = auto()
    DURATION = auto()
    LIST = auto()
    OBJECT = auto()
    OTHER = auto()


_KINDS: Mapping[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    float: Kind.FLOAT,
    Decimal: Kind.DECIMAL,
    str: Kind.TEXT,
    bytes: Kind.BINARY,
    bytearray: Kind.BINARY,
    memoryview: Kind.BINARY,
    datetime: Kind.TIMESTAMP,
    date: Kind.DATE,
    time: Kind.TIME,
    timedelta: Kind.DURATION,
    list: Kind.LIST,
    tuple: Kind.LIST,
    dict: Kind.OBJECT,
}

_SIMPLE: Mapping[Kind, pl.DataType] = {
    Kind.BOOLEAN: pl.Boolean(),
    Kind.FLOAT: pl.Float64(),
    Kind.BINARY: pl.Binary(),
    Kind.DATE: pl.Date(),
    Kind.TIMESTAMP: pl.Datetime("us"),
    Kind.INSTANT: pl.Datetime("us", "UTC"),
    Kind.TIME: pl.Time(),
    Kind.DURATION: pl.Duration("us"),
}


@cache
def _kind_of_type(python_type: type) -> Kind:
    return next((_KINDS[base] for base in python_type.__mro__ if base in _KINDS), Kind.OTHER)


class Shape:
    """The kinds of values observed in a column. More values only widen it.

    `kinds` and the `scale` of decimals can be given if they are known without values, as from a database.
    """

    def __init__(self, kinds: Iterable[Kind] = (), level: int = 0, scale: int = 0) -> None:
        self.kinds = set(kinds)
        self.fields: dict[str, Shape] = {}
        self._items: Shape | None = None
        self._level = level
        self._minimum = self._maximum = 0
        self._whole_digits, self._scale = 0, scale

    def observe(self, values: Iterable[Any]) -> None:
        """Take more values of the column into account."""
        by_kind: dict[Kind, list[Any]] = {}
        values = values if isinstance(values, Sequence) else list(values)
        present = {t: _kind_of_type(t) for t in set(map(type, values)) - {type(None)}}
        self.kinds |= set(present.values()) - {Kind.TIMESTAMP, Kind.DECIMAL}
        inspected = {t for t, kind in present.items() if kind in self._INSPECTORS}
        for value in values if inspected else ():
            if type(value) in inspected:
                by_kind.setdefault(present[type(value)], []).append(value)
        for kind, members in by_kind.items():
            self._INSPECTORS[kind](self, members)

    def _observe_integers(self, values: list[int]) -> None:
        self._minimum = min(self._minimum, min(values))
        self._maximum = max(self._maximum, max(values))

    def _observe_decimals(self, values: list[Decimal]) -> None:
        for value in values:
            _, digits, exponent = value.as_tuple()
            if not isinstance(exponent, int):  # NaN and infinity
                self.kinds.add(Kind.FLOAT)
                continue
            self.kinds.add(Kind.DECIMAL)
            self._scale = max(self._scale, -exponent)
            self._whole_digits = max(self._whole_digits, len(digits) + exponent)

    def _observe_timestamps(self, values: list[datetime]) -> None:
        self.kinds |= {Kind.TIMESTAMP if value.tzinfo is None else Kind.INSTANT for value in values}

    def _observe_lists(self, values: list[Sequence[Any]]) -> None:
        if self._level < _MAX_NESTING:
            self._item_shape().observe([item for value in values for item in value])

    def _observe_objects(self, values: list[dict[str, Any]]) -> None:
        names = dict.fromkeys(key for value in values for key in value)
        for name in names:
            self.fields.setdefault(name, Shape(level=self._level + 1))
        if self._level >= _MAX_NESTING or len(self.fields) > _MAX_FIELDS:
            return  # these are keys of a mapping, not fields: it stays JSON
        for name in names:
            self.fields[name].observe([value.get(name) for value in values])

    _INSPECTORS: Mapping[Kind, Callable[[Shape, list[Any]], None]] = {
        Kind.INTEGER: _observe_integers,
        Kind.DECIMAL: _observe_decimals,
        Kind.TIMESTAMP: _observe_timestamps,
        Kind.LIST: _observe_lists,
        Kind.OBJECT: _observe_objects,
    }

    def _item_shape(self) -> Shape:
        if self._items is None:
            self._items = Shape(level=self._level + 1)
        return self._items

    def dtype(self) -> pl.DataType:
        """The type that holds every observed value; `Null` if there is none."""
        kinds = self.kinds
        if not kinds:
            return pl.Null()
        if kinds <= {Kind.INTEGER, Kind.FLOAT, Kind.DECIMAL}:
            return self._number()
        if kinds == {Kind.DATE, Kind.TIMESTAMP}:
            return _SIMPLE[Kind.TIMESTAMP]
        if len(kinds) > 1 or self._level >= _MAX_NESTING:
            return pl.String()
        (kind,) = kinds
        if kind is Kind.LIST:
            return pl.List(self._item_shape().dtype())
        if kind is Kind.OBJECT and 0 < len(self.fields) <= _MAX_FIELDS:
            return pl.Struct({name: shape.dtype() for name, shape in self.fields.items()})
        return _SIMPLE.get(kind, pl.String())

    def _number(self) -> pl.DataType:
        if Kind.FLOAT in self.kinds:
            return pl.Float64()
        if Kind.DECIMAL in self.kinds:
            whole = max(self._whole_digits, len(str(max(-self._minimum, self._maximum))))
            if whole + self._scale <= _MAX_DIGITS:
                return pl.Decimal(_MAX_DIGITS, self._scale)
            return pl.Float64() if self._scale else pl.String()
        if self._minimum >= -(2**63) and self._maximum < 2**63:
            return pl.Int64()
        return pl.UInt64() if self._minimum >= 0 and self._maximum < 2**64 else pl.String()

    def converter(self) -> Converter | None:
        """The function that converts values to `dtype()`; None if no value needs conversion."""
        dtype = self.dtype()
        if isinstance(dtype, pl.List):
            return _list_converter(self._item_shape().converter())
        if isinstance(dtype, pl.Struct):
            return _struct_converter({name: shape.converter() for name, shape in self.fields.items()})
        if isinstance(dtype, pl.String):
            return None if self.kinds == {Kind.TEXT} else _as_text
        if isinstance(dtype, pl.Datetime):
            return _as_utc if dtype.time_zone else (_as_timestamp if Kind.DATE in self.kinds else None)
        exact = {pl.Float64: float, pl.Decimal: Decimal} if self.kinds != {Kind.FLOAT} else {}
        return bytes if isinstance(dtype, pl.Binary) else exact.get(type(dtype))


def _list_converter(item: Converter | None) -> Converter | None:
    if item is None:
        return None
    return lambda value: [None if member is None else item(member) for member in value]


def _struct_converter(fields: Mapping[str, Converter | None]) -> Converter | None:
    needed = {name: convert for name, convert in fields.items() if convert is not None}
    if not needed:
        return None

    def convert(value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: needed[name](member) if member is not None and name in needed else member
            for name, member in value.items()
        }

    return convert


def _as_text(value: object) -> str:
    """Convert to text: scalars as JSON or ISO 8601 writes them, nested values as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return _as_json(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return bytes(value).hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _as_json(value: object) -> str:
    try:
        return orjson.dumps(value, default=_as_text, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # orjson supports 64-bit integers only
        return json.dumps(value, default=_as_text, ensure_ascii=False, separators=(",", ":"))


def _as_utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


def _as_timestamp(value: date) -> datetime:
    return value if isinstance(value, datetime) else datetime.combine(value, time())


def series(name: str, values: Sequence[Any], shape: Shape) -> pl.Series:
    """Build a column of the shape's type from the values; the shape must have observed them.

    Raises StageError (data) for a value that no column can hold (a number or a time out of range).
    """
    try:
        convert = shape.converter()
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        return pl.Series(name, values, dtype=shape.dtype(), strict=True)
    except (TypeError, ValueError, ArithmeticError, pl.exceptions.PolarsError) as error:
        raise data_error(f"column {name!r}: {first_line(error)}") from error


def table_of(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Build a table from records: columns in order of first appearance, missing keys null."""
    columns = []
    for name, values in _columns_of(records).items():
        shape = Shape()
        shape.observe(values)
        columns.append(series(name, values, shape))
    return pl.DataFrame(columns)


def _columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(key for record in records for key in record)
    return {name: [record.get(name) for record in records] for name in names}


class Spool:
    """Rows that arrive in pieces, stored on disk until their types are known.

    Each piece is an Arrow file with the types known so far; `finish` rewrites the pieces whose types have changed.

    Memory holds one piece at a time. `shapes` gives columns known beforehand, with what is known about their types.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, Shape] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shapes: dict[str, Shape] = dict(shapes or {})
        self._pieces: list[tuple[Path, pl.Schema]] = []

    def append(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add a piece: columns of equal length. Raises StageError (data) for a value that no column can hold."""
        for name, values in columns.items():
            self._shapes.setdefault(name, Shape()).observe(values)
        height = len(next(iter(columns.values()), ()))
        if height:
            path = self._folder / f"{len(self._pieces):05d}.arrow"
            frame = self._frame(columns, height)
            _write_frame(path, frame)
            self._pieces.append((path, frame.schema))

    def append_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add a piece given as records; missing keys are null."""
        self.append(_columns_of(records))

    def finish(self) -> pl.LazyFrame:
        """Return all rows, in order, as a lazy frame."""
        schema = pl.Schema({name: shape.dtype() for name, shape in self._shapes.items()})
        for path, written in self._pieces:
            if written != schema:
                frame = pl.read_ipc(path)
                _write_frame(path, self._frame(frame.to_dict(as_series=False), frame.height))
        if not self._pieces:
            return pl.LazyFrame(schema=schema)
        return pl.scan_ipc([path for path, _ in self._pieces], glob=False)

    def _frame(self, columns: Mapping[str, Sequence[Any]], height: int) -> pl.DataFrame:
        missing = [None] * height
        return pl.DataFrame([series(name, columns.get(name, missing), shape) for name, shape in self._shapes.items()])


def _write_frame(path: Path, frame: pl.DataFrame) -> None:
    written = path.with_suffix(".new")
    frame.write_ipc(written)
    written.replace(path)
