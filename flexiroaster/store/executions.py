"""Lists of executions: filtered, sorted, in pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Table,
    and_,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
)

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.model.paging import MAX_PAGE_SIZE, Page, Window
from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Sort
from flexiroaster.store.tables import Json, events, executions, pipelines, stage_runs

__all__ = [
    "LARGE",
    "STAGE_COLUMNS",
    "ExecutionFilter",
    "ExecutionRow",
    "ExecutionSort",
    "StageRow",
    "among",
    "by_idempotency_key",
    "count",
    "ended_since",
    "event_of",
    "events_of",
    "events_of_types",
    "execution",
    "execution_columns",
    "execution_row",
    "executions_by_id",
    "in_statuses",
    "latest_executions",
    "offset_page",
    "page",
    "slot_holders",
    "stage_row",
    "stages_by_execution",
    "stages_of",
]


# Row types of executions and stages, and the conversion of database rows to them and to events.
LARGE: Final = frozenset({"variables", "error"})
"""Columns of an execution that may hold megabytes, and that lists rarely show."""


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """A stored execution. `error` has at least `message`. A paused execution is stopped at its `pause_deadline`."""

    id: str
    pipeline_id: str
    pipeline_name: str
    revision: int
    status: ExecutionStatus
    variables: dict[str, Any]
    triggered_by: str
    total_stages: int
    completed_stages: int
    risk_score: float | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    error: dict[str, Any] | None
    last_seq: int
    pause_deadline: datetime | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None before the end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()

    @property
    def progress(self) -> float:
        """The percentage of completed stages, one decimal."""
        return round(100 * self.completed_stages / self.total_stages, 1) if self.total_stages else 0.0


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage run of an execution. `attempt` counts from 1; 0 before the first. `retry_at`: the next attempt."""

    execution_id: str
    stage_id: str
    position: int
    name: str
    status: StageStatus
    attempt: int
    started_at: datetime | None
    completed_at: datetime | None
    retry_at: datetime | None
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    is_anomaly: bool

    @property
    def duration(self) -> float | None:
        """Seconds of the last attempt; None before it ends."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


def execution_columns(leave_out: Collection[str] = ()) -> list[ColumnElement[Any]]:
    """Return the columns to select for an ExecutionRow. LARGE columns in `leave_out` become empty or None, unread."""
    empty = {"variables": literal({}, Json), "error": null()}
    return [empty[name].label(name) if name in leave_out else executions.c[name] for name in ExecutionRow.__slots__]


STAGE_COLUMNS = [stage_runs.c[name] for name in StageRow.__slots__]


def execution_row(row: Row[Any]) -> ExecutionRow:
    """Convert a row of `execution_columns`, in their order."""
    values: list[Any] = list(row)
    values[_STATUS] = ExecutionStatus(values[_STATUS])
    return ExecutionRow(*values)


def stage_row(row: Row[Any]) -> StageRow:
    """Convert a row that has STAGE_COLUMNS."""
    values = {name: row._mapping[name] for name in StageRow.__slots__}
    return StageRow(**{**values, "status": StageStatus(row.status)})


def event_of(row: Row[Any]) -> Event:
    """Convert a row of `events`."""
    return Event(**{**row._mapping, "type": EventType(row.type), "level": Level(row.level)})


_STATUS = ExecutionRow.__slots__.index("status")


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
    wanted: ExecutionFilter = ExecutionFilter(),
    sort: ExecutionSort = ExecutionSort.NEWEST,
    window: Window | None = None,
    leave_out: Collection[str] = (),
) -> Page[ExecutionRow]:
    """Return a page of the matching executions. Raises InputError (cursor).

    `leave_out` names columns among `variables` and `error` to leave unread and empty, here and in the functions below.
    """
    lanes, rest = _lanes(wanted, sort)
    statement = select(*execution_columns(leave_out)).where(*rest)
    with database.read() as connection:
        return sql.page(connection, statement, sort.value, window or Window(), execution_row, lanes)


def offset_page(
    database: Database,
    wanted: ExecutionFilter = ExecutionFilter(),
    skip: int = 0,
    limit: int = 100,
    leave_out: Collection[str] = (),
) -> tuple[list[ExecutionRow], int]:
    """Return up to `limit` matches after `skip`, newest first, and the total number of matches.

    The cost grows with `skip`; that of `page` does not depend on the position.
    """
    conditions = _conditions(wanted)
    newest = (executions.c.created_at.desc(), executions.c.id.desc())
    statement = select(*execution_columns(leave_out)).where(*conditions).order_by(*newest)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(executions).where(*conditions)).scalar_one()
        return [execution_row(row) for row in connection.execute(statement.offset(skip).limit(limit))], total


def count(database: Database, wanted: ExecutionFilter = ExecutionFilter()) -> int:
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
            window = Window(first=MAX_PAGE_SIZE, after=after)
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
            rows = [execution_row(row) for row in connection.execute(statement.where(behind).limit(MAX_PAGE_SIZE))]
        found += rows
        if len(rows) < MAX_PAGE_SIZE:
            return found
        last = (rows[-1].completed_at, rows[-1].id)


def among(
    database: Database, wanted: ExecutionFilter, ids: Iterable[str], leave_out: Collection[str] = ()
) -> list[ExecutionRow]:
    """Return those of these executions that match, ordered by id. Reads only these executions."""
    ordered = sorted(ids)
    statement = select(*execution_columns(leave_out)).where(*_conditions(wanted, plain=_hidden))
    found: list[ExecutionRow] = []
    for begin in range(0, len(ordered), MAX_PAGE_SIZE):
        part = statement.where(executions.c.id.in_(ordered[begin : begin + MAX_PAGE_SIZE])).order_by(executions.c.id)
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


# Reads of the state of one execution; `execution_list` has lists, and `batches` reads many executions at once.
def execution(database: Database, execution_id: str) -> ExecutionRow:
    """Return one execution. Raises NotFoundError."""
    with database.read() as connection:
        row = connection.execute(select(*execution_columns()).where(executions.c.id == execution_id)).first()
    if row is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return execution_row(row)


def by_idempotency_key(database: Database, key: str) -> tuple[str, str] | None:
    """Return the id of the execution started with this key, and the digest of its request."""
    statement = select(executions.c.id, executions.c.request_digest).where(executions.c.idempotency_key == key)
    with database.read() as connection:
        row = connection.execute(statement).first()
    return None if row is None else (row.id, row.request_digest)


def slot_holders(database: Database, pipeline_id: str, *, or_wait: bool = False) -> list[str]:
    """Return the executions that hold a slot of the pipeline, oldest first; with `or_wait`, also the queued ones."""
    held = executions.c.slot.is_not(None)
    wanted = or_(held, executions.c.queued) if or_wait else held
    statement = select(executions.c.id).where(executions.c.pipeline_id == pipeline_id, wanted)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.created_at, executions.c.id)).scalars())


def stages_of(database: Database, execution_id: str) -> list[StageRow]:
    """Return the stages of an execution, in topological order."""
    statement = select(*STAGE_COLUMNS).where(stage_runs.c.execution_id == execution_id)
    with database.read() as connection:
        return [stage_row(row) for row in connection.execute(statement.order_by(stage_runs.c.position))]


def events_of(
    database: Database,
    execution_id: str,
    *,
    after: int = 0,
    levels: tuple[Level, ...] | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return the events after number `after`, in order; only those of `levels`, if given."""
    statement = select(events).where(events.c.execution_id == execution_id, events.c.seq > after)
    if levels is not None:
        statement = statement.where(events.c.level.in_(levels))
    with database.read() as connection:
        return [event_of(row) for row in connection.execute(statement.order_by(events.c.seq).limit(limit))]


# Batch reads for many executions or pipelines, each with one statement.
def executions_by_id(
    database: Database, execution_ids: Collection[str], leave_out: Collection[str] = ()
) -> dict[str, ExecutionRow]:
    """Return those of these executions that exist, by id."""
    statement = select(*execution_columns(leave_out)).where(executions.c.id.in_(execution_ids))
    with database.read() as connection:
        return {row.id: execution_row(row) for row in connection.execute(statement)}


def stages_by_execution(database: Database, execution_ids: Collection[str]) -> dict[str, list[StageRow]]:
    """Return the stages of each execution, in topological order."""
    statement = select(*STAGE_COLUMNS).where(stage_runs.c.execution_id.in_(execution_ids))
    found: defaultdict[str, list[StageRow]] = defaultdict(list)
    with database.read() as connection:
        for row in connection.execute(statement.order_by(stage_runs.c.execution_id, stage_runs.c.position)):
            found[row.execution_id].append(stage_row(row))
    return dict(found)


def latest_executions(
    database: Database, pipeline_ids: Collection[str], limit: int = 1, leave_out: Collection[str] = ()
) -> dict[str, list[ExecutionRow]]:
    """Return the `limit` newest executions of each pipeline, newest first."""
    found: defaultdict[str, list[ExecutionRow]] = defaultdict(list)
    with database.read() as connection:
        for row in _first_of_each(
            connection,
            parent=pipelines.c.id.in_(pipeline_ids),
            child=executions,
            link=executions.c.pipeline_id,
            to=pipelines.c.id,
            key=executions.c.id,
            order=lambda table: (table.c.pipeline_id.desc(), table.c.created_at.desc(), table.c.id.desc()),
            columns=execution_columns(leave_out),
            limit=limit,
        ):
            found[row.pipeline_id].append(execution_row(row))
    for rows in found.values():
        rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    return dict(found)


def events_of_types(database: Database, execution_ids: Collection[str], types: Collection[EventType]) -> list[Event]:
    """Return all events of these types of these executions, in order within each execution."""
    statement = select(events).where(events.c.execution_id.in_(execution_ids), events.c.type.in_(types))
    with database.read() as connection:
        return [event_of(row) for row in connection.execute(statement.order_by(events.c.execution_id, events.c.seq))]


def _first_of_each(
    connection: Connection,
    *,
    parent: ColumnElement[bool],
    child: Table,
    link: Column[Any],
    to: Column[Any],
    key: Column[Any],
    order: Callable[[FromClause], Sequence[ColumnElement[Any]]],
    columns: Sequence[ColumnElement[Any]],
    limit: int,
) -> Sequence[Row[Any]]:
    """Return the first `limit` rows of `child` for each parent row, unordered; `link` holds the parent's key (`to`).

    Each database needs its own form to read only these rows. PostgreSQL uses a lateral join. It compares `link` as a
    range and sorts by it: with an equality the planner may scan an index over the remaining order, through the rows of
    all other parents. SQLite has no lateral join and uses a list of keys for each parent.
    """
    if connection.dialect.name == "postgresql":
        each = select(*columns).where(link.between(to, to)).order_by(*order(child)).limit(limit)
        lateral = each.correlate(to.table).lateral()
        return connection.execute(select(lateral).select_from(to.table.join(lateral, true())).where(parent)).all()
    inner = child.alias("inner_rows")
    keys = select(inner.c[key.name]).where(inner.c[link.name] == to).order_by(*order(inner))
    chosen = key.in_(keys.limit(limit).correlate(to.table))
    joined = to.table.join(child, and_(link == to, chosen) if link.primary_key else chosen)
    return connection.execute(select(*columns).select_from(joined).where(parent)).all()
