"""The models of executions: start requests, status and logs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flexiroaster.model.event import Event, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.service.executions.executions import ExecutionRow, StageRow
from rest_compat.dependencies import TEXT, TRIGGERED_BY
from rest_compat.models import Answer
from rest_compat.models.safety import RiskAssessment

__all__ = [
    "ExecutionDetail",
    "ExecutionList",
    "ExecutionSummary",
    "LogLine",
    "Logs",
    "StartRequest",
    "StartStatus",
    "Started",
]


class StartRequest(BaseModel):
    """The pipeline to run and its variables. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    pipeline_id: str = Field(min_length=1, pattern=TEXT)
    variables: dict[str, Any] | None = None
    triggered_by: str = Field(default="api", **TRIGGERED_BY)


class StartStatus(StrEnum):
    """The outcome of a start."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    BLOCKED = "blocked"


class Started(Answer):
    """The outcome of a start; `execution_id` is set if `success` is true."""

    success: bool
    execution_id: str
    status: StartStatus
    error: str | None = None
    risk_assessment: RiskAssessment | None = None
    message: str


class ExecutionSummary(Answer):
    """The current state of an execution; `progress` is in percent, `duration` in seconds.

    Until the execution starts, `started_at` is the time of its creation.
    """

    id: str
    pipeline_id: str | None
    pipeline_name: str
    revision: int
    status: ExecutionStatus
    total_stages: int
    completed_stages: int
    progress: float
    risk_score: float | None
    triggered_by: str
    created_at: datetime
    started_at: datetime
    completed_at: datetime | None
    duration: float | None
    error: str | None

    @classmethod
    def of(cls, row: ExecutionRow) -> ExecutionSummary:
        """Build the execution from a row."""
        return cls.from_row(row, **_changes(row))


class StageExecution(Answer):
    """A stage of an execution. `output` is the summary of its table."""

    stage_id: str
    stage_name: str
    status: StageStatus
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    retry_count: int
    output: dict[str, Any] | None
    error: str | None
    is_anomaly: bool

    @classmethod
    def of(cls, row: StageRow) -> StageExecution:
        """Build the stage from a row."""
        return cls.from_row(row, stage_name=row.name, retry_count=max(0, row.attempt - 1), error=_message(row.error))


class ExecutionDetail(ExecutionSummary):
    """An execution with its stages, in topological order."""

    stage_executions: list[StageExecution]
    current_stage: str | None = Field(description="The first stage that is running or waits for its next attempt.")
    variables: dict[str, Any]
    pause_deadline: datetime | None

    @classmethod
    def of_rows(cls, row: ExecutionRow, stages: Iterable[StageRow]) -> ExecutionDetail:
        """Build the execution from its row and the rows of its stages."""
        stages = list(stages)
        active = (s.stage_id for s in stages if s.status in {StageStatus.RUNNING, StageStatus.WAITING})
        executed = [StageExecution.of(stage) for stage in stages]
        return cls.from_row(row, **_changes(row), stage_executions=executed, current_stage=next(active, None))


class ExecutionList(Answer):
    """A page of executions, newest first; `total` counts all matches."""

    executions: list[ExecutionSummary]
    total: int
    cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class LogLine(Answer):
    """An event of an execution. `id` counts from 1 without gaps within the execution."""

    id: int
    level: Level
    message: str
    stage_id: str | None
    timestamp: datetime
    metadata: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> LogLine:
        """Build the line from an event; `metadata` holds the event type and the attempt."""
        about: dict[str, Any] = {"event": event.type.value}
        if event.attempt is not None:
            about["attempt"] = event.attempt
        return cls(
            id=event.seq,
            level=event.level,
            message=event.message,
            stage_id=event.stage_id,
            timestamp=event.at,
            metadata={**(event.data or {}), **about},
        )


class Logs(Answer):
    """Lines of the log, oldest first; `total` counts all matches."""

    logs: list[LogLine]
    total: int
    after: int = Field(description="The last id in this response; pass it as `after` to get the following lines.")


def _changes(row: ExecutionRow) -> dict[str, Any]:
    return {"started_at": row.started_at or row.created_at, "error": _message(row.error)}


def _message(error: dict[str, Any] | None) -> str | None:
    return None if error is None else str(error["message"])
