"""What all queries share: reading tables in pages, locks, the database's clock, and the encoding of values.

A page begins after the key of a row (keyset pagination), not after a number of rows, so the database finds it through
an index, at the same cost for every page and in both directions. Rows without a value in the sort column come last in
both directions. They form a separate segment after the others, since no index can seek in both at once.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Row,
    Select,
    Table,
    bindparam,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from flexiroaster.errors import InputError
from flexiroaster.model.paging import Page, Window
from flexiroaster.store.tables import UtcDateTime

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "LOCK",
    "Condition",
    "Sort",
    "TableReader",
    "after_position",
    "clean",
    "conditions",
    "cursor_of",
    "database_now",
    "database_then",
    "lock_pipeline",
    "position_of",
    "to_json",
]


T = TypeVar("T", bound="DataclassInstance")

Condition = ColumnElement[bool]


# --- reading ---------------------------------------------------------------------------------------------------------


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

    def order(self, table: FromClause, descending: bool | None = None) -> list[ColumnElement[Any]]:
        """Return the ORDER BY of the rows of `table`, which has the columns of the key; `descending` overrides."""
        columns = (table.c[column.name] for column in self.key)
        down = self.descending if descending is None else descending
        return [column.desc() if down else column.asc() for column in columns]


class TableReader(Generic[T]):
    """Reads rows of a table as values of a dataclass, whose fields are columns of the table.

    Fields without a column come last and keep their defaults. `computed` has expressions to read in place of columns;
    `converters` convert the values of columns, such as to enums.
    """

    def __init__(
        self,
        table: Table,
        row_type: type[T],
        computed: Mapping[str, ColumnElement[Any]] | None = None,
        **converters: Callable[[Any], Any],
    ) -> None:
        self._table = table
        self._row_type = row_type
        computed = computed or {}
        names = [field.name for field in fields(row_type) if field.name in table.c]
        self.columns = [computed[name].label(name) if name in computed else table.c[name] for name in names]
        self._converters = [(names.index(name), convert) for name, convert in converters.items()]

    def select(self, *conditions: Condition) -> Select[Any]:
        """Return a statement for the matching rows."""
        return select(*self.columns).where(*conditions)

    def convert(self, row: Row[Any]) -> T:
        """Convert a row of `columns`, in their order."""
        values = list(row)
        for index, convert in self._converters:
            values[index] = convert(values[index])
        return self._row_type(*values)

    def all(self, connection: Connection, statement: Select[Any]) -> list[T]:
        """Return all rows of a statement made by `select`."""
        return [self.convert(row) for row in connection.execute(statement)]

    def first(self, connection: Connection, *conditions: Condition) -> T | None:
        """Return a matching row, if any."""
        row = connection.execute(self.select(*conditions)).first()
        return None if row is None else self.convert(row)

    def count(self, connection: Connection, conditions: Sequence[Condition]) -> int:
        """Count the matching rows; scans all of them."""
        return connection.execute(select(func.count()).select_from(self._table).where(*conditions)).scalar_one()

    def offset_page(
        self, connection: Connection, conditions: Sequence[Condition], sort: Sort, skip: int, limit: int
    ) -> tuple[list[T], int]:
        """Return up to `limit` matching rows after the first `skip`, and the total number of matches.

        The cost grows with `skip`.
        """
        statement = self.select(*conditions).order_by(*sort.order(self._table)).offset(skip).limit(limit)
        return self.all(connection, statement), self.count(connection, conditions)

    def page(
        self,
        connection: Connection,
        conditions: Sequence[Condition],
        sort: Sort,
        window: Window,
        lanes: Sequence[Sequence[Condition]] = ((),),
    ) -> Page[T]:
        """Return the matching rows that are in the window.

        `lanes` are conditions of which exactly one holds for each wanted row. Each lane is read through its own index,
        and the lanes are merged. Takes one statement, or two if the page reaches rows without a sort value. Raises
        InputError for a cursor of another order.
        """
        statement = self.select(*conditions)
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
            items=tuple(self.convert(row) for row in rows),
            cursors=tuple(cursor_of(sort, *(getattr(row, column.name) for column in sort.key)) for row in rows),
            has_next=window.before is not None if window.backward else more,
            has_previous=more if window.backward else window.after is not None,
        )

    def first_of_each(
        self,
        connection: Connection,
        parent: Column[str],
        parents: Collection[str],
        link: Column[str],
        sort: Sort,
        limit: int,
    ) -> dict[str, list[T]]:
        """Return the first `limit` rows in this order for each of the `parents`; `link` holds the key of the parent.

        Each database needs its own form to read only these rows. PostgreSQL uses a lateral join. It compares `link` as
        a range and sorts by it: with an equality the planner may scan an index over the remaining order, through the
        rows of all other parents. SQLite has no lateral join and uses a list of keys for each parent.
        """

        def first_rows(table: FromClause, columns: Sequence[ColumnElement[Any]], linked: Condition) -> Select[Any]:
            order = table.c[link.name].desc() if sort.descending else table.c[link.name].asc()
            return select(*columns).where(linked).order_by(order, *sort.order(table)).limit(limit)

        if connection.dialect.name == "postgresql":
            each = first_rows(self._table, self.columns, link.between(parent, parent))
            lateral = each.correlate(parent.table).lateral()
            statement = select(lateral).select_from(parent.table.join(lateral, true()))
        else:
            inner = self._table.alias("inner_rows")
            keys = first_rows(inner, [inner.c[sort.unique.name]], inner.c[link.name] == parent)
            chosen = sort.unique.in_(keys.correlate(parent.table))
            joined = parent.table.join(self._table, chosen)
            statement = select(*self.columns).select_from(joined)
        found: defaultdict[str, list[T]] = defaultdict(list)
        for item in self.all(connection, statement.where(parent.in_(parents))):
            found[getattr(item, link.name)].append(item)
        for items in found.values():
            items.sort(key=lambda item: [getattr(item, column.name) for column in sort.key], reverse=sort.descending)
        return dict(found)


def conditions(*terms: tuple[ColumnElement[Any], Callable[[Any, Any], Condition], Any]) -> list[Condition]:
    """Return `operator(column, value)` for each (column, operator, value) of a filter whose value is not None."""
    return [operator(column, value) for column, operator, value in terms if value is not None]


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

    conditions: tuple[Condition, ...]
    descending: bool


def _segments(sort: Sort, position: tuple[Any, ...] | None, descending: bool, backward: bool) -> Iterator[_Segment]:
    """Yield the segments from the position on, in reading order."""
    column = sort.column
    if column is None or not column.nullable:
        conditions = () if position is None else (after_position(sort.key, position, descending),)
        yield _Segment(conditions, descending)
        return
    absent = position is not None and position[0] is None
    valued, empty = _Segment((column.is_not(None),), descending), _Segment((column.is_(None),), descending)
    if position is not None and absent:
        empty = _Segment((column.is_(None), after_position((sort.unique,), position[1:], descending)), descending)
    elif position is not None:
        valued = _Segment((after_position(sort.key, position, descending),), descending)
    if backward:
        yield from (empty, valued) if position is None or absent else (valued,)
    else:
        yield from (empty,) if absent else (valued, empty)


def after_position(key: Sequence[Column[Any]], position: Sequence[Any], descending: bool = False) -> Condition:
    """Return the condition for rows after a position: one row comparison, which an index over the key answers."""
    if len(key) == 1:
        alone: ColumnElement[Any] = key[0]
        condition: Condition = alone < position[0] if descending else alone > position[0]
        return condition
    here = tuple_(*(literal(value, column.type) for column, value in zip(key, position, strict=True)))
    return tuple_(*key) < here if descending else tuple_(*key) > here


def _read(
    statement: Select[Any], sort: Sort, segment: _Segment, lanes: Sequence[Sequence[Condition]], limit: int
) -> Select[Any]:
    statement = statement.where(*segment.conditions)
    order = sort.order(sort.unique.table, segment.descending)
    if len(lanes) == 1:
        return statement.where(*lanes[0]).order_by(*order).limit(limit)
    parts = [select(statement.where(*lane).order_by(*order).limit(limit).subquery()) for lane in lanes]
    merged = union_all(*parts).subquery()
    return select(merged).order_by(*sort.order(merged, segment.descending)).limit(limit)


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


# --- locks and the clock -----------------------------------------------------------------------------------------

LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended(p.id, 7))
FROM (SELECT unnest(%(pipelines)s::text[]) AS id ORDER BY 1) AS p
"""
"""Locks the slots of pipelines until the transaction ends, even if no row holds a slot yet.

It serializes assigning and freeing slots, and must precede every lock on a row of `executions`.
"""


def lock_pipeline(connection: Connection, pipeline_id: str) -> None:
    """Wait for the lock of a pipeline and hold it until the transaction ends. SQLite needs none: it has one writer."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(LOCK, {"pipelines": [pipeline_id]})


class database_now(FunctionElement[datetime]):  # noqa: N801 - used like an SQL function
    """The database's time, which is authoritative, because the clocks of processes differ.

    It has the format of `UtcDateTime` columns. On PostgreSQL it is the start of the transaction.
    """

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


# --- encoding --------------------------------------------------------------------------------------------------------

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
