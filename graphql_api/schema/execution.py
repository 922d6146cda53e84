"""Executions of pipelines: their stage runs with attempts and artifacts, and their events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.errors import ErrorClass
from flexiroaster.model import event
from flexiroaster.model.command import ALLOWED, CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus
from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import artifacts, events, executions
from flexiroaster.service.executions.events import AttemptOutcome, EventFilter
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow, ExecutionSort, StageRow
from graphql_api.context import Info
from graphql_api.permissions import object_type, requires
from graphql_api.schema.relay import (
    Connection,
    Node,
    Window,
    connection,
    connection_field,
    global_id_field,
    selected_field_names,
)
from graphql_api.schema.safety import Decision, RiskAssessment, stored_assessment
from graphql_api.schema.scalars import JSON, BigInt, as_schema_type, lazy_type, resolved_from

__all__ = ["LARGE_COLUMNS", "Event", "Execution", "StageRun", "execution_connection"]

LARGE_COLUMNS = frozenset({"variables", "error"})
"""Columns of an execution that may be large; their schema fields have the same names."""

_PIPELINES = "graphql_api.schema.pipeline"


@object_type(Role.VIEWER)
class Event(Node):
    """One event in an execution's history, such as a state change or a log line of a stage."""

    id: strawberry.ID = global_id_field("Event", "execution_id", "seq")
    seq: BigInt = strawberry.field(description="Sequence number within the execution, from 1 without gaps.")
    at: datetime
    type: EventType
    level: Level
    execution_id: str
    stage_id: str | None
    attempt: int | None
    message: str = strawberry.field(description="One human-readable line.")
    data: JSON | None

    is_type_of = resolved_from(event.Event)


@object_type(Role.VIEWER)
class Failure:
    """The failure of an attempt, a stage or an execution."""

    message: str
    error_class: ErrorClass = strawberry.field(description="The class of the failure; it decides about retries.")
    type: str | None = strawberry.field(description="Type of the exception, if there was one.")
    stage_id: str | None = strawberry.field(description="The stage whose failure failed the execution.")
    details: JSON | None
    traceback: str | None = strawberry.field(
        metadata=requires(Role.OPERATOR), description="The end of the traceback; it may contain lines of user code."
    )


def _failure(root: strawberry.Parent[Any]) -> Failure | None:
    """Convert the column `error` of an execution, a stage run or an attempt."""
    error: Mapping[str, Any] | None = root.error
    if error is None:
        return None
    return Failure(
        message=error["message"],
        error_class=ErrorClass(error.get("class", ErrorClass.UNKNOWN)),
        type=error.get("type"),
        stage_id=error.get("stage_id"),
        details=JSON(error["details"]) if error.get("details") else None,
        traceback=error.get("traceback") or None,
    )


# --- stage runs ---


@object_type(Role.VIEWER)
class Attempt:
    """One attempt to run a stage."""

    number: int = strawberry.field(description="Number among all attempts of the stage, from 1.")
    attempt: int = strawberry.field(
        description="The stage's attempt count. It restarts when the execution is retried, and interrupted attempts do "
        "not count."
    )
    started_at: datetime
    ended_at: datetime | None
    duration: float | None = strawberry.field(description="Duration in seconds; null until the attempt has ended.")
    outcome: AttemptOutcome
    error: Failure | None = strawberry.field(resolver=_failure)
    retry_delay: float | None = strawberry.field(description="Seconds until the next attempt, if one was scheduled.")


async def _attempts(root: strawberry.Parent[StageRow], info: Info) -> list[Attempt]:
    found = await info.context.loaders.attempts.load(root.execution_id)
    return as_schema_type(found.get(root.stage_id, []))


@object_type(Role.VIEWER)
class StageRun(Node):
    """The run of one stage within an execution, with all its attempts."""

    id: strawberry.ID = global_id_field("StageRun", "execution_id", "stage_id")
    execution_id: str
    stage_id: str
    name: str
    position: int = strawberry.field(description="Position in the topological order, from 0.")
    status: StageStatus
    attempt: int = strawberry.field(description="Number of the last attempt; 0 before the first.")
    retry_count: int = strawberry.field(resolver=lambda root: max(0, root.attempt - 1))
    attempts: list[Attempt] = strawberry.field(resolver=_attempts)
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None = strawberry.field(description="Seconds of the last attempt; null until it has ended.")
    retry_at: datetime | None = strawberry.field(description="When the next attempt or the next undo starts.")
    output: JSON | None = strawberry.field(description="Its reported figures: rows, columns, bytes and its own values.")
    error: Failure | None = strawberry.field(resolver=_failure)
    is_anomaly: bool

    is_type_of = resolved_from(StageRow)


@object_type(Role.VIEWER)
class Column:
    """A column of an artifact's table."""

    name: str
    type: str = strawberry.field(description="The polars data type, such as `Int64`.")


@object_type(Role.OPERATOR)
class TablePreview:
    """The first rows of an artifact's table, with cells as JSON values.

    Times are ISO 8601, durations are seconds, decimals and integers beyond 2^53 are strings, bytes are base64, and NaN
    is null.
    """

    columns: list[Column]
    rows: JSON = strawberry.field(description="A list of rows; each row is a list of cells in column order.")
    total_rows: BigInt
    cut: bool = strawberry.field(description="Whether long texts or lists in cells are truncated.")


def _preview(root: strawberry.Parent[artifacts.Artifact], info: Info, rows: int = 20) -> TablePreview:
    return as_schema_type(artifacts.preview(info.context.installation, root.execution_id, root.stage_id, rows))


@object_type(Role.VIEWER)
class Artifact:
    """The output table of a completed stage."""

    execution_id: str
    stage_id: str
    rows: BigInt
    columns: list[Column]
    bytes: BigInt = strawberry.field(description="Size of its own file; shared columns are in other files.")
    checksum: str
    preview: TablePreview = strawberry.field(
        resolver=_preview, metadata=requires(Role.OPERATOR), description="The first rows of the table, at most 1000."
    )


# --- executions ---


async def _pipeline(root: strawberry.Parent[ExecutionRow], info: Info) -> object:
    return await info.context.loaders.pipelines.load(root.pipeline_id)


async def _definition(root: strawberry.Parent[ExecutionRow], info: Info) -> object:
    return await info.context.loaders.revision_rows.load((root.pipeline_id, root.revision))


async def _stage_runs(
    root: strawberry.Parent[ExecutionRow], info: Info, statuses: list[StageStatus] | None = None
) -> list[StageRun]:
    runs = await info.context.loaders.stage_runs.load(root.id)
    return as_schema_type([run for run in runs if statuses is None or run.status in statuses])


async def _artifacts(root: strawberry.Parent[ExecutionRow], info: Info) -> list[Artifact]:
    runs = await info.context.loaders.stage_runs.load(root.id)
    found = (artifacts.of_stage(root.id, run) for run in runs)
    return as_schema_type([artifact for artifact in found if artifact is not None])


async def _risk(root: strawberry.Parent[ExecutionRow], info: Info) -> RiskAssessment | None:
    row = await info.context.loaders.assessments.load(root.id)
    return None if row is None else stored_assessment(row)


async def _decisions(root: strawberry.Parent[ExecutionRow], info: Info) -> list[Decision]:
    return as_schema_type(await info.context.loaders.execution_decisions.load(root.id))


def _allowed_commands(root: strawberry.Parent[ExecutionRow]) -> list[CommandKind]:
    return [kind for kind in CommandKind if root.status in ALLOWED[kind]]


def _events(
    root: strawberry.Parent[ExecutionRow],
    info: Info,
    window: Window,
    types: list[EventType] | None = None,
    stage_id: str | None = None,
) -> Connection[Event]:
    wanted = EventFilter(types=None if types is None else tuple(types), stage_id=stage_id)
    return _event_connection(info, root.id, wanted, window)


def _logs(
    root: strawberry.Parent[ExecutionRow],
    info: Info,
    window: Window,
    level: Level = Level.INFO,
    stage_id: str | None = None,
) -> Connection[Event]:
    wanted = EventFilter(levels=tuple(Level)[tuple(Level).index(level) :], stage_id=stage_id)
    return _event_connection(info, root.id, wanted, window)


def _event_connection(info: Info, execution_id: str, wanted: EventFilter, window: Window) -> Connection[Event]:
    installation = info.context.installation
    page = events.page(installation, execution_id, wanted, window)
    return connection(page, lambda: events.count(installation, execution_id, wanted))


@object_type(Role.VIEWER)
class Execution(Node):
    """A run of a pipeline at the revision that it started with."""

    id: strawberry.ID = global_id_field("Execution", "id")
    execution_id: str = strawberry.field(
        resolver=lambda root: root.id, description="The id in REST and on the command line."
    )
    status: ExecutionStatus
    is_terminal: bool = strawberry.field(
        resolver=lambda root: root.status in TERMINAL, description="Whether the execution has ended."
    )
    allowed_commands: list[CommandKind] = strawberry.field(
        resolver=_allowed_commands, description="The commands that its current state allows."
    )
    pipeline_id: str
    pipeline_name: str
    pipeline: Any = strawberry.field(
        graphql_type=lazy_type("Pipeline", _PIPELINES),
        resolver=_pipeline,
        description="The pipeline as it is now; null once it is deleted.",
    )
    revision: int
    definition: Any = strawberry.field(
        graphql_type=lazy_type("PipelineRevision", _PIPELINES),
        resolver=_definition,
        description="The pipeline definition that it runs.",
    )
    variables: JSON
    triggered_by: str
    total_stages: int
    completed_stages: int
    progress: float = strawberry.field(description="Percentage of completed stages, to one decimal.")
    risk_score: float | None
    risk: RiskAssessment | None = strawberry.field(resolver=_risk, description="The assessment before its start.")
    decisions: list[Decision] = strawberry.field(
        resolver=_decisions, description="Decisions of the safety engine while it ran, oldest first."
    )
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None = strawberry.field(description="Seconds from start to end; null until it has ended.")
    pause_deadline: datetime | None = strawberry.field(
        description="When the paused execution is stopped unless it is resumed."
    )
    error: Failure | None = strawberry.field(resolver=_failure)
    last_seq: BigInt = strawberry.field(description="Sequence number of its last event.")
    stage_runs: list[StageRun] = strawberry.field(resolver=_stage_runs)
    artifacts: list[Artifact] = strawberry.field(resolver=_artifacts, description="Output tables of its stages.")
    events: Connection[Event] = connection_field(_events, description="All events of the execution, in order.")
    logs: Connection[Event] = connection_field(_logs, description="The events of at least this level, in order.")

    is_type_of = resolved_from(ExecutionRow)


def execution_connection(
    info: Info, wanted: ExecutionFilter, sort: ExecutionSort, window: Window
) -> Connection[Execution]:
    """Return a page of executions, with their large columns only if requested."""
    installation = info.context.installation
    unread = LARGE_COLUMNS - selected_field_names(info)
    page = executions.page(installation, wanted, sort, window, leave_out=unread)
    return connection(page, lambda: executions.count(installation, wanted))
