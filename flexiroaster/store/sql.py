"""Keyset pagination in both directions, at the same cost for every page.

A page begins after the key of a row, not after a number of rows, so the database finds it through an index. Rows
without a value in the sort column come last in both directions. They form a separate segment after the others, since no
index can seek in both at once.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Integer,
    Row,
    Select,
    bindparam,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from flexiroaster.errors import InputError
from flexiroaster.model.paging import Page, Window
from flexiroaster.store.tables import UtcDateTime

__all__ = [
    "LOCK",
    "Sort",
    "clean",
    "cursor_of",
    "database_now",
    "database_then",
    "lock_pipeline",
    "page",
    "position_of",
    "to_json",
]


T = TypeVar("T")

_Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort order: by `column`, then by `unique`; by `unique` alone if there is no column.

    `name` identifies the order and is part of each cursor.
    """

    name: str
    unique: Column[Any]
    column: Column[Any] | None = None
    descending: bool = False

    @property
    def key(self) -> tuple[Column[Any], ...]:
        """The columns that give the position of a row."""
        return (self.unique,) if self.column is None else (self.column, self.unique)

    def cursor(self, row: object) -> str:
        """Encode the position of a row, which has the columns of the key as attributes, as a cursor."""
        return cursor_of(self, *(getattr(row, column.name) for column in self.key))


def page(
    connection: Connection,
    statement: Select[Any],
    sort: Sort,
    window: Window,
    make: Callable[[Row[Any]], T],
    lanes: Sequence[Sequence[_Condition]] = ((),),
) -> Page[T]:
    """Return the rows of a statement that are in the window. The statement must select the key of `sort`.

    `lanes` are conditions of which exactly one holds for each wanted row. Each lane is read through its own index, and
    the lanes are merged. Takes one statement, or two if the page reaches rows without a sort value. Raises InputError
    for a cursor of another order.
    """
    position = None if window.cursor is None else position_of(sort, window.cursor)
    rows: list[Row[Any]] = []
    for segment in _segments(sort, position, sort.descending != window.backward, window.backward):
        rows += connection.execute(_read(statement, sort, segment, lanes, window.size + 1 - len(rows))).all()
        if len(rows) > window.size:
            break
    more, rows = len(rows) > window.size, rows[: window.size]
    if window.backward:
        rows.reverse()
    return Page(
        items=tuple(make(row) for row in rows),
        cursors=tuple(map(sort.cursor, rows)),
        has_next=window.before is not None if window.backward else more,
        has_previous=more if window.backward else window.after is not None,
    )


def cursor_of(sort: Sort, *key: object) -> str:
    """Return the position of the row with this key, as opaque text."""
    return base64.urlsafe_b64encode(orjson.dumps([sort.name, *key])).rstrip(b"=").decode()


def position_of(sort: Sort, cursor: str) -> tuple[Any, ...]:
    """Return the key in a cursor of this order. Raises InputError for any other text."""
    try:
        name, *key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name == sort.name and len(key) == len(sort.key):
            return tuple(_value(column, item) for column, item in zip(sort.key, key, strict=True))
    except (binascii.Error, ValueError, TypeError, OverflowError) as error:
        raise InputError("the cursor is invalid: pass one from an earlier page", argument="cursor") from error
    raise InputError(f"the cursor belongs to a different list or sort order than {sort.name!r}", argument="cursor")


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment of the list: the conditions for its rows, and whether it is read in descending order."""

    conditions: tuple[_Condition, ...]
    descending: bool


def _segments(sort: Sort, position: tuple[Any, ...] | None, descending: bool, backward: bool) -> Iterator[_Segment]:
    """Yield the segments from the position on, in reading order."""
    column = sort.column
    if column is None or not column.nullable:
        conditions = () if position is None else (_beyond(sort.key, position, descending),)
        yield _Segment(conditions, descending)
        return
    absent = position is not None and position[0] is None
    valued, empty = _Segment((column.is_not(None),), descending), _Segment((column.is_(None),), descending)
    if position is not None and absent:
        empty = _Segment((column.is_(None), _beyond((sort.unique,), position[1:], descending)), descending)
    elif position is not None:
        valued = _Segment((_beyond(sort.key, position, descending),), descending)
    if backward:
        yield from (empty, valued) if position is None or absent else (valued,)
    else:
        yield from (empty,) if absent else (valued, empty)


def _beyond(key: Sequence[Column[Any]], position: Sequence[Any], descending: bool) -> _Condition:
    """Return the condition for rows after a position: one row comparison, which an index over the key answers."""
    if len(key) == 1:
        alone: ColumnElement[Any] = key[0]
        condition: _Condition = alone < position[0] if descending else alone > position[0]
        return condition
    here = tuple_(*(literal(value, column.type) for column, value in zip(key, position, strict=True)))
    return tuple_(*key) < here if descending else tuple_(*key) > here


def _read(
    statement: Select[Any], sort: Sort, segment: _Segment, lanes: Sequence[Sequence[_Condition]], limit: int
) -> Select[Any]:
    statement = statement.where(*segment.conditions)
    order = [column.desc() if segment.descending else column.asc() for column in sort.key]
    if len(lanes) == 1:
        return statement.where(*lanes[0]).order_by(*order).limit(limit)
    parts = [select(statement.where(*lane).order_by(*order).limit(limit).subquery()) for lane in lanes]
    merged = union_all(*parts).subquery()
    keys = [merged.c[column.name] for column in sort.key]
    return select(merged).order_by(*(key.desc() if segment.descending else key.asc() for key in keys)).limit(limit)


def _value(column: Column[Any], item: object) -> Any:  # noqa: ANN401 - of the column's type
    """Convert a part of a cursor to the column's type. Raises ValueError."""
    if item is None and column.nullable:
        return None
    if isinstance(column.type, UtcDateTime) and isinstance(item, str):
        at = datetime.fromisoformat(item)
        if at.tzinfo is None:
            raise ValueError("a time without a time zone")
        return at.astimezone(UTC)
    if isinstance(column.type, Float) and isinstance(item, int | float) and not isinstance(item, bool):
        return float(item)
    if isinstance(column.type, Integer | BigInteger) and isinstance(item, int) and -(2**63) <= item < 2**63:
        return item
    if isinstance(column.type, UtcDateTime | Float | Integer) or not isinstance(item, str) or "\0" in item:
        raise ValueError("not a value of the column's type")
    return item


# The lock on a pipeline's slots, which serializes assigning and freeing them, even if no row holds them yet.
LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended(p.id, 7))
FROM (SELECT unnest(%(pipelines)s::text[]) AS id ORDER BY 1) AS p
"""
"""Locks pipelines until the transaction ends; must precede every lock on a row of `executions`."""


def lock_pipeline(connection: Connection, pipeline_id: str) -> None:
    """Wait for the lock of a pipeline and hold it until the transaction ends. SQLite needs none: it has one writer."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(LOCK, {"pipelines": [pipeline_id]})


# The database's clock as SQL expressions; it is authoritative, because the clocks of processes differ.
class database_now(FunctionElement[datetime]):  # noqa: N801 - used like an SQL function
    """The current time in the format of `UtcDateTime` columns; on PostgreSQL the start of the transaction."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _postgres(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "now()"


@compiles(database_now, "sqlite")
def _sqlite(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"


class database_then(FunctionElement[datetime]):  # noqa: N801 - as above
    """The time `seconds` after `database_now`."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float) -> None:
        super().__init__(bindparam(None, seconds, type_=Float()))


@compiles(database_then, "postgresql")
def _postgres_then(element: database_then, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"now() + make_interval(secs => {compiler.process(element.clauses, **options)})"


@compiles(database_then, "sqlite")
def _sqlite_then(element: database_then, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - as above
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', {seconds} || ' seconds')"


# Encoding of values for the database: JSON text, and text that both databases accept.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


def clean(text: str) -> str:
    """Return the text with NUL and lone surrogates replaced by U+FFFD."""
    return text if text.isascii() and "\x00" not in text else _UNSTORABLE.sub("\ufffd", text)


def to_json(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Return a value as JSON text, None for None. NaN and infinities become null; unknown objects become text."""
    if value is None:
        return None
    try:
        text = orjson.dumps(value, default=str, option=_OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, or integers beyond 64 bits
        text = _cleaned_json(value)
    if b"\\u0000" in text:
        text = _cleaned_json(value)
    return text.decode()


def _cleaned_json(value: Any) -> bytes:  # noqa: ANN401 - as above
    return orjson.dumps(_cleaned(value), default=lambda unknown: clean(str(unknown)), option=_OPTIONS)


def _cleaned(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
