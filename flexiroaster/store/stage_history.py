"""The stages of ended executions, as training data for the safety engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from flexiroaster.model.event import EventType
from flexiroaster.model.execution import StageStatus
from flexiroaster.store.rows import event_of
from flexiroaster.store.safety.history import PastRun
from flexiroaster.store.safety_tables import risk_assessments, run_history
from flexiroaster.store.tables import events, stage_runs

__all__ = ["EndedStage", "at_level", "ended_stages", "told_anomalies"]


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
    number = (stage_runs.c.output["rows"].as_string(), stage_runs.c.output["bytes"].as_string())
    names = ("execution_id", "stage_id", "status", "attempt", "started_at", "completed_at", "is_anomaly")
    columns = [stage_runs.c[name] for name in names]
    wanted = (stage_runs.c.execution_id.in_(list(ended_at)), stage_runs.c.completed_at.is_not(None))
    rows = connection.execute(select(*columns, number[0].label("rows"), number[1].label("bytes")).where(*wanted))
    found: dict[str, list[EndedStage]] = {execution_id: [] for execution_id in ended_at}
    for row in rows:
        before = learned.get(row.execution_id)
        if row.attempt > 0 and (before is None or row.completed_at > before):
            found[row.execution_id].append(_ended(row))
    return {i: sorted(stages, key=lambda s: (s.completed_at, s.stage_id)) for i, stages in found.items()}


def told_anomalies(connection: Connection, execution_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the anomalies reported while these executions ran: by execution, the data of each event with its stage."""
    wanted = (events.c.execution_id.in_(list(execution_ids)), events.c.type == EventType.STAGE_ANOMALY)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(select(events).where(*wanted).order_by(events.c.execution_id, events.c.seq)):
        event = event_of(row)
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
