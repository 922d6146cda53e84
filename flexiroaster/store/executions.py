"""Lists of executions: filtered, sorted, in pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from sqlalchemy import Column, ColumnElement, func, literal, or_, select, tuple_

from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.rows import ExecutionRow, execution_columns, execution_row
from flexiroaster.store.sql import MOST, Page, Sort, Window
from flexiroaster.store.tables import executions

__all__ = ["ExecutionFilter", "ExecutionSort", "among", "count", "ended_since", "in_statuses", "page", "part"]

_Condition = ColumnElement[bool]

MOST_LANES = 16
"""Up to this many pipelines or statuses are each read through their own part of an index; more, in one scan."""


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """A filter for executions; a field that is None matches all. Bounds are inclusive, except `created_before`.

    `text` is searched in the id, the pipeline's name and the error message, ignoring case (on SQLite only of ASCII
    letters).
    """

    ids: tuple[str, ...] | None = None
    pipeline_ids: tuple[str, ...] | None = None
    statuses: tuple[ExecutionStatus, ...] | None = None
    triggered_by: tuple[str, ...] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    minimal_risk: float | None = None
    maximal_risk: float | None = None
    text: str | None = None


class ExecutionSort(Enum):
    """The sort orders of executions. Rows without a value in the sort column come last."""

    NEWEST = Sort("created_at desc", executions.c.id, executions.c.created_at, descending=True)
    OLDEST = Sort("created_at", executions.c.id, executions.c.created_at)
    STARTED_LAST = Sort("started_at desc", executions.c.id, executions.c.started_at, descending=True)
    STARTED_FIRST = Sort("started_at", executions.c.id, executions.c.started_at)
    COMPLETED_LAST = Sort("completed_at desc", executions.c.id, executions.c.completed_at, descending=True)
    COMPLETED_FIRST = Sort("completed_at", executions.c.id, executions.c.completed_at)
    RISKIEST = Sort("risk_score desc", executions.c.id, executions.c.risk_score, descending=True)
    SAFEST = Sort("risk_score", executions.c.id, executions.c.risk_score)


def page(
    database: Database,
    wanted: ExecutionFilter,
    sort: ExecutionSort = ExecutionSort.NEWEST,
    window: Window | None = None,
    leave_out: Collection[str] = (),
) -> Page[ExecutionRow]:
    """Return a page of the matching executions. Raises InputError (cursor)."""
    lanes, rest = _lanes(wanted, sort)
    statement = select(*execution_columns(leave_out)).where(*rest)
    with database.read() as connection:
        return sql.page(connection, statement, sort.value, window or Window(), execution_row, lanes)


def part(
    database: Database, wanted: ExecutionFilter, skip: int, limit: int, leave_out: Collection[str] = ()
) -> tuple[list[ExecutionRow], int]:
    """Return up to `limit` matches after `skip`, newest first, and the total number of matches.

    The cost grows with `skip`.
    """
    conditions = _conditions(wanted)
    newest = (executions.c.created_at.desc(), executions.c.id.desc())
    statement = select(*execution_columns(leave_out)).where(*conditions).order_by(*newest)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(executions).where(*conditions)).scalar_one()
        return [execution_row(row) for row in connection.execute(statement.offset(skip).limit(limit))], total


def count(database: Database, wanted: ExecutionFilter) -> int:
    """Count the matching executions; scans all of them."""
    statement = select(func.count()).select_from(executions).where(*_conditions(wanted))
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


def in_statuses(
    database: Database,
    wanted: ExecutionFilter,
    statuses: Collection[ExecutionStatus],
    leave_out: Collection[str] = (),
) -> list[ExecutionRow]:
    """Return all matching executions in these statuses, oldest first. Reads only executions in these statuses."""
    statement = select(*execution_columns(leave_out)).where(*_conditions(replace(wanted, statuses=None), plain=_hidden))
    lanes = [[executions.c.status == status] for status in statuses]
    found: list[ExecutionRow] = []
    after: str | None = None
    while True:
        with database.read() as connection:
            window = Window(first=MOST, after=after)
            part = sql.page(connection, statement, ExecutionSort.OLDEST.value, window, execution_row, lanes)
        found += part.items
        if not part.has_next:
            return found
        after = part.cursors[-1]


def ended_since(
    database: Database, wanted: ExecutionFilter, at: datetime, leave_out: Collection[str] = ()
) -> list[ExecutionRow]:
    """Return all matching executions that ended at this time or later, in the order of their ends.

    Reads only executions that ended since then.
    """
    key = (executions.c.completed_at, executions.c.id)
    statement = select(*execution_columns(leave_out)).where(*_conditions(wanted, plain=_hidden)).order_by(*key)
    found: list[ExecutionRow] = []
    last: tuple[datetime | None, str] = (at, "")
    while True:
        behind = tuple_(*key) > tuple_(*(literal(value, column.type) for value, column in zip(last, key, strict=True)))
        with database.read() as connection:
            rows = [execution_row(row) for row in connection.execute(statement.where(behind).limit(MOST))]
        found += rows
        if len(rows) < MOST:
            return found
        last = (rows[-1].completed_at, rows[-1].id)


def among(
    database: Database, wanted: ExecutionFilter, ids: Iterable[str], leave_out: Collection[str] = ()
) -> list[ExecutionRow]:
    """Return those of these executions that match, ordered by id. Reads only these executions."""
    ordered = sorted(ids)
    statement = select(*execution_columns(leave_out)).where(*_conditions(wanted, plain=_hidden))
    found: list[ExecutionRow] = []
    for begin in range(0, len(ordered), MOST):
        part = statement.where(executions.c.id.in_(ordered[begin : begin + MOST])).order_by(executions.c.id)
        with database.read() as connection:
            found += [execution_row(row) for row in connection.execute(part)]
    return found


def _lanes(wanted: ExecutionFilter, sort: ExecutionSort) -> tuple[list[list[_Condition]], list[_Condition]]:
    """Return the lanes, each one a range of an index in this sort order, and the other conditions."""
    conditions = _conditions(wanted)
    by_creation = sort in {ExecutionSort.NEWEST, ExecutionSort.OLDEST}
    for column, values in ((executions.c.pipeline_id, wanted.pipeline_ids), (executions.c.status, wanted.statuses)):
        distinct = list(dict.fromkeys(values or ()))
        if by_creation and 1 < len(distinct) <= MOST_LANES:
            return [[column == value] for value in distinct], conditions
        if distinct and column is executions.c.pipeline_id:
            break  # the executions of one pipeline are few enough to scan
    return [[]], conditions


def _hidden(column: Column[str]) -> ColumnElement[str]:
    """Return the value of a column in a form that no index matches.

    Without statistics SQLite prefers any index for an equality to one for a range. It would read all executions of a
    pipeline to find the few that ended recently.
    """
    return column.concat("")


def _shown(column: Column[str]) -> ColumnElement[str]:
    return column


def _conditions(
    wanted: ExecutionFilter, plain: Callable[[Column[str]], ColumnElement[str]] = _shown
) -> list[_Condition]:
    """Return the conditions of the filter; `plain` wraps the columns that lead an index."""
    columns = executions.c
    found: list[_Condition | None] = [
        _among(columns.id, wanted.ids),
        _among(plain(columns.pipeline_id), wanted.pipeline_ids),
        _among(plain(columns.status), wanted.statuses),
        _among(columns.triggered_by, wanted.triggered_by),
        None if wanted.created_after is None else columns.created_at >= wanted.created_after,
        None if wanted.created_before is None else columns.created_at < wanted.created_before,
        None if wanted.minimal_risk is None else columns.risk_score >= wanted.minimal_risk,
        None if wanted.maximal_risk is None else columns.risk_score <= wanted.maximal_risk,
        _containing(wanted.text) if wanted.text else None,
    ]
    return [condition for condition in found if condition is not None]


def _among(column: ColumnElement[str], values: Collection[str] | None) -> _Condition | None:
    if values is None:
        return None
    return column == next(iter(values)) if len(values) == 1 else column.in_(values)


def _containing(text: str) -> _Condition:
    message = executions.c.error["message"].as_string()
    return or_(
        *(field.icontains(text, autoescape=True) for field in (executions.c.id, executions.c.pipeline_name, message))
    )
