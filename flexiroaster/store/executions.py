"""Reads of executions and their stages: one, many at once, and lists that are filtered, sorted and in pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    extract,
    func,
    literal,
    null,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.sql.operators import ge, le, lt

from flexiroaster.errors import NotFoundError
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.model.paging import MAX_PAGE_SIZE, Page, Window
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Condition, Sort, TableReader, after_position, conditions
from flexiroaster.store.tables import Json, executions, pipelines, stage_runs

__all__ = [
    "LARGE",
    "STAGES",
    "ExecutionFilter",
    "ExecutionRow",
    "ExecutionSort",
    "ExecutionStatistics",
    "StageRow",
    "among",
    "by_idempotency_key",
    "count",
    "ended_since",
    "execution",
    "execution_statistics",
    "executions_by_id",
    "in_statuses",
    "latest_executions",
    "offset_page",
    "page",
    "slot_holders",
    "stages_by_execution",
    "stages_of",
]


LARGE: Final = frozenset({"variables", "error"})
"""Columns of an execution that may hold megabytes, and that lists rarely show."""

MAX_LANES = 16
"""Up to this many pipelines or statuses are each read through their own part of an index; more, in one scan."""


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
        return _seconds_between(self.started_at, self.completed_at)

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
        return _seconds_between(self.started_at, self.completed_at)


def _seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


STAGES = TableReader(stage_runs, StageRow, status=StageStatus)


def _reader(leave_out: Collection[str] = ()) -> TableReader[ExecutionRow]:
    """Return the reader of executions. LARGE columns in `leave_out` become empty or None, unread."""
    return _reader_without(frozenset(leave_out))


@cache
def _reader_without(left_out: frozenset[str]) -> TableReader[ExecutionRow]:
    empty: dict[str, ColumnElement[Any]] = {"variables": literal({}, Json), "error": null()}
    return TableReader(executions, ExecutionRow, {name: empty[name] for name in left_out}, status=ExecutionStatus)


# --- lists -----------------------------------------------------------------------------------------------------------


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
    with database.read() as connection:
        lanes = _lanes(wanted, sort)
        return _reader(leave_out).page(connection, _conditions(wanted), sort.value, window or Window(), lanes)


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
    with database.read() as connection:
        newest = ExecutionSort.NEWEST.value
        return _reader(leave_out).offset_page(connection, _conditions(wanted), newest, skip, limit)


def count(database: Database, wanted: ExecutionFilter = ExecutionFilter()) -> int:
    """Count the matching executions; scans all of them."""
    with database.read() as connection:
        return _reader().count(connection, _conditions(wanted))


def in_statuses(
    database: Database,
    wanted: ExecutionFilter,
    statuses: Collection[ExecutionStatus],
    leave_out: Collection[str] = (),
) -> list[ExecutionRow]:
    """Return all matching executions in these statuses, oldest first. Reads only executions in these statuses."""
    matching = _conditions(replace(wanted, statuses=None), _hidden_from_indexes)
    lanes = [[executions.c.status == status] for status in statuses]
    found: list[ExecutionRow] = []
    window = Window(first=MAX_PAGE_SIZE)
    while True:
        with database.read() as connection:
            page = _reader(leave_out).page(connection, matching, ExecutionSort.OLDEST.value, window, lanes)
        found += page.items
        if not page.has_next:
            return found
        window = Window(first=MAX_PAGE_SIZE, after=page.cursors[-1])


def ended_since(
    database: Database, wanted: ExecutionFilter, at: datetime, leave_out: Collection[str] = ()
) -> list[ExecutionRow]:
    """Return all matching executions that ended at this time or later, in the order of their ends.

    Reads only executions that ended since then.
    """
    reader, key = _reader(leave_out), ExecutionSort.COMPLETED_FIRST.value.key
    statement = reader.select(*_conditions(wanted, _hidden_from_indexes)).order_by(*key).limit(MAX_PAGE_SIZE)
    found: list[ExecutionRow] = []
    last: tuple[datetime | None, str] = (at, "")
    while True:
        with database.read() as connection:
            rows = reader.all(connection, statement.where(after_position(key, last)))
        found += rows
        if len(rows) < MAX_PAGE_SIZE:
            return found
        last = (rows[-1].completed_at, rows[-1].id)


def among(
    database: Database, wanted: ExecutionFilter, ids: Iterable[str], leave_out: Collection[str] = ()
) -> list[ExecutionRow]:
    """Return those of these executions that match, ordered by id. Reads only these executions."""
    reader, ordered = _reader(leave_out), sorted(ids)
    statement = reader.select(*_conditions(wanted, _hidden_from_indexes)).order_by(executions.c.id)
    found: list[ExecutionRow] = []
    for begin in range(0, len(ordered), MAX_PAGE_SIZE):
        with database.read() as connection:
            chunk = ordered[begin : begin + MAX_PAGE_SIZE]
            found += reader.all(connection, statement.where(executions.c.id.in_(chunk)))
    return found


def _lanes(wanted: ExecutionFilter, sort: ExecutionSort) -> list[list[Condition]]:
    """Return lanes (see `TableReader.page`) of which each one is a range of an index in this sort order."""
    by_creation = sort in {ExecutionSort.NEWEST, ExecutionSort.OLDEST}
    for column, values in ((executions.c.pipeline_id, wanted.pipeline_ids), (executions.c.status, wanted.statuses)):
        distinct = list(dict.fromkeys(values or ()))
        if by_creation and 1 < len(distinct) <= MAX_LANES:
            return [[column == value] for value in distinct]
        if distinct and column is executions.c.pipeline_id:
            break  # the executions of one pipeline are few enough to scan
    return [[]]


def _hidden_from_indexes(column: Column[str]) -> ColumnElement[str]:
    """Return the value of a column in a form that no index matches.

    Without statistics SQLite prefers any index for an equality to one for a range. It would read all executions of a
    pipeline to find the few that ended recently.
    """
    return column.concat("")


def _conditions(
    wanted: ExecutionFilter, wrap: Callable[[Column[str]], ColumnElement[str]] = lambda column: column
) -> list[Condition]:
    """Return the conditions of the filter; `wrap` is applied to the columns that lead an index."""
    columns = executions.c
    found = conditions(
        (columns.id, _among, wanted.ids),
        (wrap(columns.pipeline_id), _among, wanted.pipeline_ids),
        (wrap(columns.status), _among, wanted.statuses),
        (columns.triggered_by, _among, wanted.triggered_by),
        (columns.created_at, ge, wanted.created_after),
        (columns.created_at, lt, wanted.created_before),
        (columns.risk_score, ge, wanted.minimal_risk),
        (columns.risk_score, le, wanted.maximal_risk),
    )
    if wanted.text:
        searched = (columns.id, columns.pipeline_name, columns.error["message"].as_string())
        found.append(or_(*(field.icontains(wanted.text, autoescape=True) for field in searched)))
    return found


def _among(column: ColumnElement[str], values: Collection[str]) -> Condition:
    return column == next(iter(values)) if len(values) == 1 else column.in_(values)


# --- one execution, or many at once ----------------------------------------------------------------------------------


def execution(database: Database, execution_id: str) -> ExecutionRow:
    """Return one execution. Raises NotFoundError."""
    with database.read() as connection:
        found = _reader().first(connection, executions.c.id == execution_id)
    if found is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return found


def executions_by_id(
    database: Database, execution_ids: Collection[str], leave_out: Collection[str] = ()
) -> dict[str, ExecutionRow]:
    """Return those of these executions that exist, by id."""
    reader = _reader(leave_out)
    with database.read() as connection:
        return {row.id: row for row in reader.all(connection, reader.select(executions.c.id.in_(execution_ids)))}


def latest_executions(
    database: Database, pipeline_ids: Collection[str], limit: int = 1, leave_out: Collection[str] = ()
) -> dict[str, list[ExecutionRow]]:
    """Return the `limit` newest executions of each pipeline, newest first."""
    with database.read() as connection:
        return _reader(leave_out).first_of_each(
            connection,
            parent=pipelines.c.id,
            parents=pipeline_ids,
            link=executions.c.pipeline_id,
            sort=ExecutionSort.NEWEST.value,
            limit=limit,
        )


def by_idempotency_key(database: Database, key: str) -> tuple[str, str] | None:
    """Return the id of the execution started with this key, and the digest of its request."""
    statement = select(executions.c.id, executions.c.request_digest).where(executions.c.idempotency_key == key)
    with database.read() as connection:
        row = connection.execute(statement).first()
    return None if row is None else (row.id, row.request_digest)


def slot_holders(database: Database, pipeline_id: str, *, or_wait: bool = False) -> list[str]:
    """Return the executions that hold a slot of the pipeline, oldest first; with `or_wait`, also the queued ones."""
    has_slot = executions.c.slot.is_not(None)
    wanted = or_(has_slot, executions.c.queued) if or_wait else has_slot
    statement = select(executions.c.id).where(executions.c.pipeline_id == pipeline_id, wanted)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.created_at, executions.c.id)).scalars())


def stages_of(database: Database, execution_id: str) -> list[StageRow]:
    """Return the stages of an execution, in topological order."""
    return stages_by_execution(database, [execution_id]).get(execution_id, [])


def stages_by_execution(database: Database, execution_ids: Collection[str]) -> dict[str, list[StageRow]]:
    """Return the stages of each execution, in topological order."""
    statement = STAGES.select(stage_runs.c.execution_id.in_(execution_ids))
    found: defaultdict[str, list[StageRow]] = defaultdict(list)
    with database.read() as connection:
        for row in STAGES.all(connection, statement.order_by(stage_runs.c.execution_id, stage_runs.c.position)):
            found[row.execution_id].append(row)
    return dict(found)


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """The number of executions by status, and the mean duration (s) of completed executions."""

    by_status: dict[ExecutionStatus, int]
    mean_duration: float | None


def execution_statistics(database: Database, since: datetime) -> ExecutionStatistics:
    """Return the statistics of the executions created since then."""
    with database.read() as connection:
        statement = select(executions.c.status, func.count(), func.avg(_duration(connection)))
        rows = connection.execute(statement.where(executions.c.created_at >= since).group_by(executions.c.status)).all()
    counts = {ExecutionStatus(status): number for status, number, _ in rows}
    mean = next((mean for status, _, mean in rows if status == ExecutionStatus.COMPLETED), None)
    return ExecutionStatistics(counts, None if mean is None else float(mean))


def _duration(connection: Connection) -> ColumnElement[Any]:
    """Return the duration in seconds, null before the end; SQLite computes in days."""
    started, ended = executions.c.started_at, executions.c.completed_at
    if connection.dialect.name == "sqlite":
        return (func.julianday(ended) - func.julianday(started)) * 86_400.0
    return extract("epoch", type_coerce(ended, DateTime) - type_coerce(started, DateTime))
