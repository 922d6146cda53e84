"""The history of ended runs, copied once from the executions or imported, and the stages of ended executions.

The safety engine learns from both, in the order of the ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    exists,
    insert,
    select,
    text,
    tuple_,
    update,
)

from flexiroaster.model.event import EventType
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus
from flexiroaster.store.database import Database
from flexiroaster.store.events import EVENTS
from flexiroaster.store.sql import TableReader, after_position
from flexiroaster.store.tables import events, executions, risk_assessments, run_history, stage_runs

__all__ = [
    "EndedStage",
    "PastRun",
    "add",
    "anything_unfolded",
    "at_level",
    "count",
    "ended_stages",
    "in_order",
    "missing",
    "newest",
    "refresh_statistics",
    "reported_anomalies",
    "save_predictions",
    "unfolded",
]


LATE_COMMITS = timedelta(seconds=30)
"""End times come from the clocks of drivers, so an end may be committed this much later than newer ones."""

CHUNK = 2000


@dataclass(frozen=True, slots=True)
class PastRun:
    """An ended run: `status` is completed, failed or cancelled; `said` has the probabilities predicted at its start.

    `error_class` is that of the execution's error; `rolled_back` tells whether its effects were undone. Imported runs
    have neither.
    """

    execution_id: str
    finished_at: datetime
    pipeline_id: str
    started_at: datetime
    status: str
    duration_s: float | None
    n_stages: int | None
    imported: bool = False
    said: dict[str, float] | None = None
    error_class: str | None = None
    rolled_back: bool = False

    @property
    def counts(self) -> bool:
        """Whether the run is evidence about failures."""
        return self.status != ExecutionStatus.CANCELLED


def anything_unfolded(since: datetime | None) -> ColumnElement[bool]:
    """Return a condition: an ended execution is not in the history yet. It takes one look-up in each of two indexes."""
    return exists(select(executions.c.id).where(*_not_in_history(since)))


def unfolded(connection: Connection, since: datetime | None, limit: int) -> list[PastRun]:
    """Return ended executions that are not in the history yet, oldest end first; `since` is the newest end in it."""
    names = ("id", "pipeline_id", "status", "total_stages", "created_at", "started_at", "completed_at")
    error_class = executions.c.error["class"].as_string().label("error_class")
    statement = (
        select(*(executions.c[name] for name in names), error_class, risk_assessments.c.said)
        .outerjoin(risk_assessments, risk_assessments.c.execution_id == executions.c.id)
        .where(*_not_in_history(since))
        .order_by(executions.c.completed_at, executions.c.id)
        .limit(limit)
    )
    return sorted(map(_of_execution, connection.execute(statement)), key=_by_end)


def add(connection: Connection, runs: Sequence[PastRun]) -> None:
    """Insert runs that the history does not have."""
    if runs:
        rows = [{column.name: getattr(run, column.name) for column in _reader.columns} for run in runs]
        connection.execute(insert(run_history), rows)


def refresh_statistics(connection: Connection) -> None:
    """Refresh PostgreSQL's statistics after many new rows; it would plan for few rows until its own ANALYZE."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE run_history"))


def save_predictions(connection: Connection, predictions: Mapping[tuple[str, datetime], Mapping[str, float]]) -> None:
    """Store the probabilities that would have been predicted at the starts of runs, by execution and end."""
    one = (run_history.c.execution_id == bindparam("execution"), run_history.c.finished_at == bindparam("end"))
    rows = [{"execution": name, "end": end, "values": dict(values)} for (name, end), values in predictions.items()]
    if rows:
        connection.execute(update(run_history).where(*one).values(said=bindparam("values")), rows)


def missing(connection: Connection, runs: Sequence[PastRun]) -> list[PastRun]:
    """Return the runs that the history does not have, each once. To add them, hold `risk.locked_progress`."""
    key = tuple_(run_history.c.execution_id, run_history.c.finished_at)
    known: set[tuple[str, datetime]] = set()
    for begin in range(0, len(runs), CHUNK):
        ids = [run.execution_id for run in runs[begin : begin + CHUNK]]
        found = connection.execute(select(*key.clauses).where(run_history.c.execution_id.in_(ids)))
        known.update((row[0], row[1]) for row in found)
    new: dict[tuple[str, datetime], PastRun] = {}
    for run in runs:
        if (end := (run.execution_id, run.finished_at)) not in known:
            new.setdefault(end, run)
    return list(new.values())


def in_order(connection: Connection) -> Iterator[PastRun]:
    """Yield all runs in the order of their ends, then by pipeline and execution; read in chunks."""
    for _, tied in groupby(_in_chunks(connection), key=lambda run: run.finished_at):
        yield from sorted(tied, key=_by_end)


def _by_end(run: PastRun) -> tuple[datetime, str, str]:
    """Return the sort key of the safety engine's order. Python sorts, since databases differ in comparing text."""
    return run.finished_at, run.pipeline_id, run.execution_id


def _in_chunks(connection: Connection) -> Iterator[PastRun]:
    statement = _reader.select().order_by(*_END).limit(CHUNK)
    after: tuple[datetime, str] | None = None
    while True:
        runs = _reader.all(connection, statement if after is None else statement.where(after_position(_END, after)))
        yield from runs
        if len(runs) < CHUNK:
            return
        after = (runs[-1].finished_at, runs[-1].execution_id)


def newest(database: Database, limit: int) -> list[PastRun]:
    """Return the runs that ended last, in the order of their starts, then by pipeline and execution."""
    statement = _reader.select().order_by(*(column.desc() for column in _END)).limit(limit)
    with database.read() as connection:
        runs = _reader.all(connection, statement)
    return sorted(runs, key=lambda run: (run.started_at, run.pipeline_id, run.execution_id))


def count(database: Database) -> int:
    """Count the runs."""
    with database.read() as connection:
        return _reader.count(connection, [])


_reader = TableReader(run_history, PastRun)
_END = (run_history.c.finished_at, run_history.c.execution_id)


def _not_in_history(since: datetime | None) -> list[ColumnElement[bool]]:
    return [
        executions.c.completed_at.is_not(None) if since is None else executions.c.completed_at > since - LATE_COMMITS,
        executions.c.status.in_(sorted(TERMINAL)),
        ~exists().where(
            run_history.c.execution_id == executions.c.id, run_history.c.finished_at == executions.c.completed_at
        ),
    ]


def _of_execution(row: Row[*tuple[Any, ...]]) -> PastRun:
    started = row.started_at or row.created_at
    seconds = (row.completed_at - row.started_at).total_seconds() if row.started_at else None
    return PastRun(
        execution_id=row.id,
        finished_at=row.completed_at,
        pipeline_id=row.pipeline_id,
        started_at=min(started, row.completed_at),
        status=_outcome(ExecutionStatus(row.status), row.error_class),
        duration_s=None if seconds is None else max(seconds, 0.0),
        n_stages=row.total_stages,
        said=row.said,
        error_class=row.error_class,
        rolled_back=row.status == ExecutionStatus.ROLLED_BACK,
    )


def _outcome(status: ExecutionStatus, error_class: str | None) -> str:
    """Map a status to that of a past run.

    A rolled-back execution with an error failed. Without an error a user rolled it back, which predicts nothing.
    """
    if status is ExecutionStatus.ROLLED_BACK:
        status = ExecutionStatus.FAILED if error_class is not None else ExecutionStatus.CANCELLED
    return status.value


# --- stages of ended executions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndedStage:
    """A stage that ended since the last learning from its execution; times and `duration_s` are of its last attempt."""

    execution_id: str
    stage_id: str
    status: StageStatus
    attempt: int
    completed_at: datetime
    duration_s: float | None
    rows: int | None
    bytes: int | None
    is_anomaly: bool


def ended_stages(connection: Connection, runs: Collection[PastRun]) -> dict[str, list[EndedStage]]:
    """Return ended stages by execution, in the order of their ends, except those learned at an earlier end of it."""
    ended_at = {run.execution_id: run.finished_at for run in runs}
    learned = _learned_until(connection, ended_at)
    names = ("execution_id", "stage_id", "status", "attempt", "started_at", "completed_at", "is_anomaly")
    columns = [stage_runs.c[name] for name in names]
    columns += [stage_runs.c.output[name].as_string().label(name) for name in ("rows", "bytes")]
    wanted = (stage_runs.c.execution_id.in_(list(ended_at)), stage_runs.c.completed_at.is_not(None))
    found: dict[str, list[EndedStage]] = {execution_id: [] for execution_id in ended_at}
    for row in connection.execute(select(*columns).where(*wanted)):
        before = learned.get(row.execution_id)
        if row.attempt > 0 and (before is None or row.completed_at > before):
            found[row.execution_id].append(_ended(row))
    return {i: sorted(stages, key=lambda s: (s.completed_at, s.stage_id)) for i, stages in found.items()}


def reported_anomalies(connection: Connection, execution_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the anomalies reported while these executions ran: by execution, the data of each event with its stage."""
    wanted = (events.c.execution_id.in_(list(execution_ids)), events.c.type == EventType.STAGE_ANOMALY)
    found: dict[str, list[dict[str, Any]]] = {}
    for event in EVENTS.all(connection, EVENTS.select(*wanted).order_by(events.c.execution_id, events.c.seq)):
        found.setdefault(event.execution_id, []).append({**(event.data or {}), "stage_id": event.stage_id})
    return found


def at_level(connection: Connection, execution_ids: Collection[str], level: str) -> set[str]:
    """Return those of these executions whose risk was assessed at this level."""
    wanted = (risk_assessments.c.execution_id.in_(list(execution_ids)), risk_assessments.c.level == level)
    return set(connection.execute(select(risk_assessments.c.execution_id).where(*wanted)).scalars())


def _learned_until(connection: Connection, ended_at: dict[str, datetime]) -> dict[str, datetime]:
    """Return the newest end of each execution before the given one; most have none."""
    key = (run_history.c.execution_id, run_history.c.finished_at)
    rows = connection.execute(select(*key).where(run_history.c.execution_id.in_(list(ended_at)))).all()
    found: dict[str, datetime] = {}
    for execution_id, at in rows:
        if at < ended_at[execution_id]:
            found[execution_id] = max(at, found.get(execution_id, at))
    return found


def _ended(row: Row[*tuple[Any, ...]]) -> EndedStage:
    seconds = None if row.started_at is None else max(0.0, (row.completed_at - row.started_at).total_seconds())
    return EndedStage(
        row.execution_id,
        row.stage_id,
        StageStatus(row.status),
        row.attempt,
        row.completed_at,
        seconds,
        _whole(row.rows),
        _whole(row.bytes),
        row.is_anomaly,
    )


def _whole(text: object) -> int | None:
    """Parse a number of a stage's output; a third-party operator may put anything there."""
    return int(text) if isinstance(text, str | int) and str(text).isdigit() else None
