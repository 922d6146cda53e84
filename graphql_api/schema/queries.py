"""The queries of the schema."""

from __future__ import annotations

import asyncio
from datetime import datetime

import strawberry

from flexiroaster.errors import InputError
from flexiroaster.model.viewer import Role
from flexiroaster.service import pipelines
from flexiroaster.service.admin import audit, metrics
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.service.executions import events
from flexiroaster.service.executions.events import EventFilter
from flexiroaster.service.safety import decisions, insights, risk
from flexiroaster.service.safety.insights import InsightFilter
from graphql_api.context import Info
from graphql_api.permissions import object_type, requires
from graphql_api.schema.execution import Execution, execution_connection
from graphql_api.schema.inputs import (
    DecisionFilterInput,
    ExecutionFilterInput,
    ExecutionSort,
    PipelineFilterInput,
    PipelineSort,
    decision_filter,
    execution_filter,
    json_object,
    pipeline_filter,
)
from graphql_api.schema.pipeline import Operator, Pipeline, operators
from graphql_api.schema.relay import Connection, Node, Window, connection, connection_field, key_of, parse_global_id
from graphql_api.schema.safety import Decision, Insight, InsightAccuracy, RiskAssessment, assessment
from graphql_api.schema.scalars import JSON, as_schema_type
from graphql_api.schema.system import AuditEntry, Health, Metrics, Viewer

__all__ = ["Query"]

MAX_NODES = 100


async def _node(info: Info, id: strawberry.ID) -> Node | None:
    return as_schema_type(await _find(info, *parse_global_id(id)))


async def _nodes(info: Info, ids: list[strawberry.ID]) -> list[Node | None]:
    if len(ids) > MAX_NODES:
        raise InputError(f"`ids` must have at most {MAX_NODES} items, not {len(ids)}", argument="ids")
    return list(await asyncio.gather(*(_node(info, given) for given in ids)))


async def _find(info: Info, type_name: str, key: str) -> object:
    """Load the row behind a global id; None if it does not exist."""
    loaders = info.context.loaders
    owner, _, part = key.rpartition("/") if type_name == "PipelineRevision" else key.partition("/")
    match type_name:
        case "Pipeline":
            return await loaders.pipelines.load(key)
        case "PipelineRevision" if part.isdecimal():
            return await loaders.revision_rows.load((owner, int(part)))
        case "Execution":
            return await loaders.executions.load(key)
        case "StageRun":
            return next((run for run in await loaders.stage_runs.load(owner) if run.stage_id == part), None)
        case "Event" if part.isdecimal():
            wanted = EventFilter(after=int(part) - 1)
            found = events.page(info.context.installation, owner, wanted, Window(first=1)).items
            return found[0] if found and found[0].seq == int(part) else None
        case "Decision":
            return await loaders.decisions.load(key)
    return None


async def _pipeline(info: Info, id: strawberry.ID) -> Pipeline | None:
    return as_schema_type(await info.context.loaders.pipelines.load(key_of("Pipeline", id)))


async def _execution(info: Info, id: strawberry.ID) -> Execution | None:
    return as_schema_type(await info.context.loaders.executions.load(key_of("Execution", id)))


def _pipelines(
    info: Info, window: Window, filter: PipelineFilterInput | None = None, order: PipelineSort = PipelineSort.OLDEST
) -> Connection[Pipeline]:
    installation, wanted = info.context.installation, pipeline_filter(filter)
    page = pipelines.page(installation, wanted, order, window)
    return connection(page, lambda: pipelines.count(installation, wanted))


def _executions(
    info: Info, window: Window, filter: ExecutionFilterInput | None = None, order: ExecutionSort = ExecutionSort.NEWEST
) -> Connection[Execution]:
    return execution_connection(info, execution_filter(filter), order, window)


def _audit_log(
    info: Info, window: Window, viewer: str | None = None, action: str | None = None, subject: str | None = None
) -> Connection[AuditEntry]:
    installation, wanted = info.context.installation, AuditFilter(viewer=viewer, action=action, subject=subject)
    page = audit.listing(installation, wanted, window)
    return connection(page, lambda: audit.count(installation, wanted))


def _risk_assessment(info: Info, pipeline_id: strawberry.ID, variables: JSON | None = None) -> RiskAssessment:
    given = None if variables is None else json_object(variables, "variables")
    return assessment(risk.assess(info.context.installation, key_of("Pipeline", pipeline_id), given).data())


def _insights(
    info: Info,
    window: Window,
    pipeline_id: str | None = None,
    execution_id: str | None = None,
    unresolved_only: bool = False,
    created_after: datetime | None = None,
) -> Connection[Insight]:
    installation = info.context.installation
    wanted = InsightFilter(pipeline_id, execution_id, unresolved_only, created_after)
    page = insights.page(installation, wanted, window)
    return connection(page, lambda: insights.count(installation, wanted))


def _decisions(info: Info, window: Window, filter: DecisionFilterInput | None = None) -> Connection[Decision]:
    installation, wanted = info.context.installation, decision_filter(filter)
    page = decisions.page(installation, wanted, window)
    return connection(page, lambda: decisions.count(installation, wanted))


def _insight_accuracy(info: Info) -> list[InsightAccuracy]:
    return as_schema_type(insights.accuracy(info.context.installation))


def _viewer(info: Info) -> Viewer:
    return as_schema_type(info.context.viewer)


def _health(info: Info) -> Health:
    return as_schema_type(metrics.check(info.context.installation))


def _metrics(info: Info) -> Metrics:
    return as_schema_type(metrics.read(info.context.installation))


@object_type(Role.VIEWER)
class Query:
    """Reads of pipelines, executions, the safety engine and the installation."""

    node: Node | None = strawberry.field(
        resolver=_node, description="The object with this global id; null if it does not exist."
    )
    nodes: list[Node | None] = strawberry.field(
        resolver=_nodes, description="The objects with these global ids, in their order; at most 100 ids."
    )
    pipeline: Pipeline | None = strawberry.field(
        resolver=_pipeline, description="The pipeline with this global id or `pipelineId`; null if it does not exist."
    )
    pipelines: Connection[Pipeline] = connection_field(_pipelines)
    execution: Execution | None = strawberry.field(
        resolver=_execution,
        description="The execution with this global id or `executionId`; null if it does not exist.",
    )
    executions: Connection[Execution] = connection_field(_executions)
    risk_assessment: RiskAssessment = strawberry.field(
        resolver=_risk_assessment,
        description="The risk that a run of the pipeline fails if it starts now, and the reasons.",
    )
    insights: Connection[Insight] = connection_field(
        _insights, description="Insights of the safety engine, newest first."
    )
    insight_accuracy: list[InsightAccuracy] = strawberry.field(
        resolver=_insight_accuracy, description="The rate of false alarms in this installation, by insight type."
    )
    decisions: Connection[Decision] = connection_field(
        _decisions, description="Decisions of the safety engine, newest first."
    )
    operators: list[Operator] = strawberry.field(
        resolver=operators, description="The operators that stages can use, by name."
    )
    viewer: Viewer = strawberry.field(resolver=_viewer, description="The authenticated viewer of this request.")
    health: Health = strawberry.field(resolver=_health)
    metrics: Metrics = strawberry.field(resolver=_metrics)
    audit_log: Connection[AuditEntry] = connection_field(
        _audit_log, metadata=requires(Role.ADMIN), description="The audit log, newest first."
    )
