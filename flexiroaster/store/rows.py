"""What executions, their stages and their events look like when they are read."""

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
"""Columns of an execution that may hold megabytes, and that a list of many rarely shows."""


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """An execution as it stands in the database. `error` has at least `message`; a paused one that nobody resumes is
    stopped at its `pause_deadline`.
    """

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
        """Percent of the stages that are completed, one decimal."""
        return round(100 * self.completed_stages / self.total_stages, 1) if self.total_stages else 0.0


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage's part of an execution. `attempt` counts from 1; 0 before the first. `retry_at`: next attempt."""

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
        """Seconds of the last attempt; None while it runs or before."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


def execution_columns(leave_out: Collection[str] = ()) -> list[ColumnElement[Any]]:
    """What to select for an ExecutionRow. Of LARGE those in `leave_out` are not read: they are empty, or None."""
    empty = {"variables": literal({}, Json), "error": null()}
    return [empty[name].label(name) if name in leave_out else executions.c[name] for name in ExecutionRow.__slots__]


STAGE_COLUMNS = [stage_runs.c[name] for name in StageRow.__slots__]


def execution_row(row: Row[Any]) -> ExecutionRow:
    """The value of a row of `execution_columns`, in their order."""
    values: list[Any] = list(row)
    values[_STATUS] = ExecutionStatus(values[_STATUS])
    return ExecutionRow(*values)


def stage_row(row: Row[Any]) -> StageRow:
    """The value of a row that has STAGE_COLUMNS."""
    values = {name: row._mapping[name] for name in StageRow.__slots__}
    return StageRow(**{**values, "status": StageStatus(row.status)})


def event_of(row: Row[Any]) -> Event:
    """The value of a row of `events`."""
    return Event(**{**row._mapping, "type": EventType(row.type), "level": Level(row.level)})


_STATUS = ExecutionRow.__slots__.index("status")
