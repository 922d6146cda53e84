"""Pages of a list in either direction, each at the same cost however far down it is.

A page begins behind the key of a row, not after a number of rows: the database goes there through an index. Rows
without a value to sort by come last, whichever the direction; they are a list of their own behind the others, since
no index finds a place in both at once.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

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
    literal,
    select,
    tuple_,
    union_all,
)

from flexiroaster.errors import InputError
from flexiroaster.store.tables import UtcDateTime

__all__ = ["DEFAULT", "MOST", "Page", "Sort", "Window", "cursor_of", "page", "position_of"]

T = TypeVar("T")

DEFAULT, MOST = 50, 1000
"""Rows of a page where nobody says how many, and at most."""

_Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of rows: by `column`, ties by `unique`; by `unique` alone where there is no column.

    `name` tells it from other orders; it is part of each cursor.
    """

    name: str
    unique: Column[Any]
    column: Column[Any] | None = None
    descending: bool = False

    @property
    def key(self) -> tuple[Column[Any], ...]:
        """The columns that say where a row stands."""
        return (self.unique,) if self.column is None else (self.column, self.unique)


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list: the `first` rows `after` a cursor, or the `last` rows `before` one.

    Raises InputError when the two are mixed, or a number is not from 0 to MOST.
    """

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    def __post_init__(self) -> None:
        forward = self.first is not None or self.after is not None
        if forward and self.backward:
            raise InputError("a page is `first` with `after`, or `last` with `before`, not both")
        if not 0 <= self.size <= MOST:
            name = "last" if self.backward else "first"
            raise InputError(f"{name}: must be from 0 to {MOST}, not {self.size}", argument=name)

    @property
    def backward(self) -> bool:
        """Whether it is counted from the end."""
        return self.last is not None or self.before is not None

    @property
    def size(self) -> int:
        """How many rows at most."""
        asked = self.last if self.backward else self.first
        return DEFAULT if asked is None else asked

    @property
    def cursor(self) -> str | None:
        """Where it begins (counted from the end: ends), if not at the end of the list."""
        return self.before if self.backward else self.after


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, in its order, each with its cursor.

    `has_next` and `has_previous` are looked up in the direction of the page; in the other one there is more if it has
    a cursor to begin with.
    """

    items: tuple[T, ...]
    cursors: tuple[str, ...]
    has_next: bool
    has_previous: bool


def page(
    connection: Connection,
    statement: Select[Any],
    sort: Sort,
    window: Window,
    make: Callable[[Row[Any]], T],
    lanes: Sequence[Sequence[_Condition]] = ((),),
) -> Page[T]:
    """The rows of a statement, which selects the key of `sort`, that are in the window.

    `lanes` are conditions of which exactly one holds for each row that is wanted: each is read by itself, through an
    index of its own, and they are merged. One statement, two where the page reaches the rows without a value.
    Raises InputError for a cursor that is not one of this order.
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
        cursors=tuple(cursor_of(sort, *(getattr(row, column.name) for column in sort.key)) for row in rows),
        has_next=window.before is not None if window.backward else more,
        has_previous=more if window.backward else window.after is not None,
    )


def cursor_of(sort: Sort, *key: object) -> str:
    """The place of the row with that key, as opaque text."""
    return base64.urlsafe_b64encode(orjson.dumps([sort.name, *key])).rstrip(b"=").decode()


def position_of(sort: Sort, cursor: str) -> tuple[Any, ...]:
    """The key that a cursor of this order stands for. Raises InputError for any other text."""
    try:
        name, *key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name == sort.name and len(key) == len(sort.key):
            return tuple(_value(column, item) for column, item in zip(sort.key, key, strict=True))
    except (binascii.Error, ValueError, TypeError, OverflowError) as error:
        raise InputError("the cursor is not one that was given out", argument="cursor") from error
    raise InputError(f"the cursor belongs to another list or order than {sort.name!r}", argument="cursor")


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the list: what holds for its rows, and whether it is read in descending order."""

    conditions: tuple[_Condition, ...]
    descending: bool


def _segments(sort: Sort, position: tuple[Any, ...] | None, descending: bool, backward: bool) -> Iterator[_Segment]:
    """The stretches from the position on, in the order in which they are read."""
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
    """What holds for rows behind a position: one comparison of rows, which an index over the key answers."""
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
    """A part of a cursor as the column's type. Raises ValueError."""
    if item is None and column.nullable:
        return None
    if isinstance(column.type, UtcDateTime) and isinstance(item, str):
        at = datetime.fromisoformat(item)
        if at.tzinfo is None:
            raise ValueError("a time without a zone")
        return at.astimezone(UTC)
    if isinstance(column.type, Float) and isinstance(item, int | float) and not isinstance(item, bool):
        return float(item)
    if isinstance(column.type, Integer | BigInteger) and isinstance(item, int) and -(2**63) <= item < 2**63:
        return item
    if isinstance(column.type, UtcDateTime | Float | Integer) or not isinstance(item, str) or "\0" in item:
        raise ValueError("not a value of its column")
    return item
