"""Row types of executions and stages, and the conversion of database rows to them and to events."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, literal, null

from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store.tables import Json, executions, stage_runs

__all__ = [
    "LARGE",
    "STAGE_COLUMNS",
    "ExecutionRow",
    "StageRow",
    "event_of",
    "execution_columns",
    "execution_row",
    "stage_row",
]

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
