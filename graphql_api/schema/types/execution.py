"""Executions of pipelines."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.model import event
from flexiroaster.model.command import ALLOWED, CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus
from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import artifacts
from flexiroaster.service.executions.events import EventFilter
from flexiroaster.service.executions.executions import ExecutionRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.relay import Connection, Node, Window, encode, event_page
from graphql_api.schema.scalars import JSON, BigInt, defined_later, served
from graphql_api.schema.types.safety import Decision, RiskAssessment, stored_assessment
from graphql_api.schema.types.stage_run import Artifact, Failure, StageRun, failure

__all__ = ["Event", "Execution"]


# Events of an execution.
def _event_id(root: strawberry.Parent[event.Event]) -> strawberry.ID:
    return strawberry.ID(encode("Event", root.execution_id, str(root.seq)))


@fields_require(Role.VIEWER)
@strawberry.type
class Event(Node):
    """One event in an execution's history, such as a state change or a log line of a stage."""

    id: strawberry.ID = strawberry.field(resolver=_event_id)
    seq: BigInt = strawberry.field(description="Sequence number within the execution, from 1 without gaps.")
    at: datetime
    type: EventType
    level: Level
    execution_id: str
    stage_id: str | None
    attempt: int | None
    message: str = strawberry.field(description="One human-readable line.")
    data: JSON | None

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, event.Event)


_PIPELINES = "graphql_api.schema.types.pipeline"


def _id(root: strawberry.Parent[ExecutionRow]) -> strawberry.ID:
    return strawberry.ID(encode("Execution", root.id))


async def _pipeline(root: strawberry.Parent[ExecutionRow], info: Info) -> object:
    return await info.context.loaders.pipelines.load(root.pipeline_id)


async def _definition(root: strawberry.Parent[ExecutionRow], info: Info) -> object:
    return await info.context.loaders.revision_rows.load((root.pipeline_id, root.revision))


async def _stage_runs(
    root: strawberry.Parent[ExecutionRow], info: Info, statuses: list[StageStatus] | None = None
) -> list[StageRun]:
    runs = await info.context.loaders.stage_runs.load(root.id)
    return served([run for run in runs if statuses is None or run.status in statuses])


async def _artifacts(root: strawberry.Parent[ExecutionRow], info: Info) -> list[Artifact]:
    runs = await info.context.loaders.stage_runs.load(root.id)
    found = (artifacts.of_stage(root.id, run) for run in runs)
    return served([artifact for artifact in found if artifact is not None])


def _failure(root: strawberry.Parent[ExecutionRow]) -> Failure | None:
    return failure(root.error)


async def _risk(root: strawberry.Parent[ExecutionRow], info: Info) -> RiskAssessment | None:
    row = await info.context.loaders.assessments.load(root.id)
    return None if row is None else stored_assessment(row)


async def _decisions(root: strawberry.Parent[ExecutionRow], info: Info) -> list[Decision]:
    return served(await info.context.loaders.execution_decisions.load(root.id))


def _allowed(root: strawberry.Parent[ExecutionRow]) -> list[CommandKind]:
    return [kind for kind in CommandKind if root.status in ALLOWED[kind]]


def _is_terminal(root: strawberry.Parent[ExecutionRow]) -> bool:
    return root.status in TERMINAL


def _events(
    root: strawberry.Parent[ExecutionRow],
    info: Info,
    types: list[EventType] | None = None,
    stage_id: str | None = None,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Event]:
    return event_page(
        info,
        root.id,
        EventFilter(types=None if types is None else tuple(types), stage_id=stage_id),
        Window(first, after, last, before),
    )


def _logs(
    root: strawberry.Parent[ExecutionRow],
    info: Info,
    level: Level = Level.INFO,
    stage_id: str | None = None,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Event]:
    wanted = EventFilter(levels=tuple(Level)[tuple(Level).index(level) :], stage_id=stage_id)
    return event_page(info, root.id, wanted, Window(first, after, last, before))


@fields_require(Role.VIEWER)
@strawberry.type
class Execution(Node):
    """A run of a pipeline at the revision that it started with."""

    id: strawberry.ID = strawberry.field(resolver=_id)
    execution_id: str = strawberry.field(
        resolver=lambda root: root.id, description="The id in REST and on the command line."
    )
    status: ExecutionStatus
    is_terminal: bool = strawberry.field(resolver=_is_terminal, description="Whether the execution has ended.")
    allowed_commands: list[CommandKind] = strawberry.field(
        resolver=_allowed, description="The commands that its current state allows."
    )
    pipeline_id: str
    pipeline_name: str
    pipeline: Any = strawberry.field(
        graphql_type=defined_later("Pipeline", _PIPELINES),
        resolver=_pipeline,
        description="The pipeline as it is now; null once it is deleted.",
    )
    revision: int
    definition: Any = strawberry.field(
        graphql_type=defined_later("PipelineRevision", _PIPELINES),
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
    events: Connection[Event] = strawberry.field(resolver=_events, description="All events of the execution, in order.")
    logs: Connection[Event] = strawberry.field(
        resolver=_logs, description="The events of at least this level, in order."
    )

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, ExecutionRow)
