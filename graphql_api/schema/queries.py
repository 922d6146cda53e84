"""The queries of the schema."""

from __future__ import annotations

import asyncio
from datetime import datetime

import strawberry

from flexiroaster.errors import InputError
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.viewer import Role
from flexiroaster.service.admin import audit
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.service.executions import events
from flexiroaster.service.executions.events import EventFilter
from flexiroaster.service.safety import insights, risk
from flexiroaster.service.safety.insights import InsightFilter
from graphql_api.context import Info
from graphql_api.permissions import fields_require, requires
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
from graphql_api.schema.relay import (
    Connection,
    Node,
    Window,
    connection,
    decision_page,
    decode,
    execution_page,
    key_of,
    pipeline_page,
)
from graphql_api.schema.scalars import JSON, served
from graphql_api.schema.types.execution import Execution
from graphql_api.schema.types.pipeline import Operator, Pipeline, operators
from graphql_api.schema.types.safety import Decision, Insight, InsightAccuracy, RiskAssessment, assessment
from graphql_api.schema.types.system import AuditEntry, Health, Metrics, Viewer, system_health, system_metrics

__all__ = ["Query"]

MOST_NODES = 100


async def _node(info: Info, id: strawberry.ID) -> Node | None:  # noqa: A002 - the API's name
    kind, key = decode(id)
    return served(await _FIND[kind](info, key) if kind in _FIND else None)


async def _nodes(info: Info, ids: list[strawberry.ID]) -> list[Node | None]:
    if len(ids) > MOST_NODES:
        raise InputError(f"`ids` must have at most {MOST_NODES} items, not {len(ids)}", argument="ids")
    return list(await asyncio.gather(*(_node(info, given) for given in ids)))


async def _find_pipeline(info: Info, key: str) -> object:
    return await info.context.loaders.pipelines.load(key)


async def _find_execution(info: Info, key: str) -> object:
    return await info.context.loaders.executions.load(key)


async def _find_revision(info: Info, key: str) -> object:
    pipeline_id, _, number = key.rpartition("/")
    return await info.context.loaders.revision_rows.load((pipeline_id, int(number))) if number.isdecimal() else None


async def _find_stage_run(info: Info, key: str) -> object:
    execution_id, _, stage_id = key.partition("/")
    runs = await info.context.loaders.stage_runs.load(execution_id)
    return next((run for run in runs if run.stage_id == stage_id), None)


async def _find_event(info: Info, key: str) -> object:
    execution_id, _, seq = key.partition("/")
    if not seq.isdecimal():
        return None
    wanted = EventFilter(after=int(seq) - 1)
    found = events.page(info.context.installation, execution_id, wanted, Window(first=1)).items
    return found[0] if found and found[0].seq == int(seq) else None


async def _find_decision(info: Info, key: str) -> object:
    return await info.context.loaders.decisions.load(key)


_FIND = {
    "Pipeline": _find_pipeline,
    "PipelineRevision": _find_revision,
    "Execution": _find_execution,
    "StageRun": _find_stage_run,
    "Event": _find_event,
    "Decision": _find_decision,
}


async def _pipeline(info: Info, id: strawberry.ID) -> Pipeline | None:  # noqa: A002 - the API's name
    return served(await info.context.loaders.pipelines.load(key_of("Pipeline", id)))


async def _execution(info: Info, id: strawberry.ID) -> Execution | None:  # noqa: A002 - the API's name
    return served(await info.context.loaders.executions.load(key_of("Execution", id)))


def _pipelines(
    info: Info,
    filter: PipelineFilterInput | None = None,  # noqa: A002 - the API's name
    order: PipelineSort = PipelineSort.OLDEST,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Pipeline]:
    return pipeline_page(info, pipeline_filter(filter), order, Window(first, after, last, before))


def _executions(
    info: Info,
    filter: ExecutionFilterInput | None = None,  # noqa: A002 - the API's name
    order: ExecutionSort = ExecutionSort.NEWEST,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Execution]:
    return execution_page(info, execution_filter(filter), order, Window(first, after, last, before))


def _operators(stage_type: StageType | None = None, names: list[str] | None = None) -> list[Operator]:
    return served(operators(stage_type, names))


def _viewer(info: Info) -> Viewer:
    return served(info.context.viewer)


def _audit(
    info: Info,
    viewer: str | None = None,
    action: str | None = None,
    subject: str | None = None,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[AuditEntry]:
    wanted = AuditFilter(viewer=viewer, action=action, subject=subject)
    page = audit.listing(info.context.installation, wanted, Window(first, after, last, before))
    return connection(page, lambda: audit.count(info.context.installation, wanted))


def _risk_assessment(info: Info, pipeline_id: strawberry.ID, variables: JSON | None = None) -> RiskAssessment:
    given = None if variables is None else json_object(variables, "variables")
    return assessment(risk.assess(info.context.installation, key_of("Pipeline", pipeline_id), given).data())


def _insights(
    info: Info,
    pipeline_id: str | None = None,
    execution_id: str | None = None,
    unresolved_only: bool = False,
    created_after: datetime | None = None,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Insight]:
    wanted = InsightFilter(pipeline_id, execution_id, unresolved_only, created_after)
    page = insights.page(info.context.installation, wanted, Window(first, after, last, before))
    return connection(page, lambda: insights.count(info.context.installation, wanted))


def _insight_accuracy(info: Info) -> list[InsightAccuracy]:
    return served(insights.accuracy(info.context.installation))


def _decisions(
    info: Info,
    filter: DecisionFilterInput | None = None,  # noqa: A002 - the API's name
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Connection[Decision]:
    return decision_page(info, decision_filter(filter), Window(first, after, last, before))


@fields_require(Role.VIEWER)
@strawberry.type
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
    pipelines: Connection[Pipeline] = strawberry.field(resolver=_pipelines)
    execution: Execution | None = strawberry.field(
        resolver=_execution,
        description="The execution with this global id or `executionId`; null if it does not exist.",
    )
    executions: Connection[Execution] = strawberry.field(resolver=_executions)
    risk_assessment: RiskAssessment = strawberry.field(
        resolver=_risk_assessment,
        description="The risk that a run of the pipeline fails if it starts now, and the reasons.",
    )
    insights: Connection[Insight] = strawberry.field(
        resolver=_insights, description="Insights of the safety engine, newest first."
    )
    insight_accuracy: list[InsightAccuracy] = strawberry.field(
        resolver=_insight_accuracy, description="The rate of false alarms in this installation, by insight type."
    )
    decisions: Connection[Decision] = strawberry.field(
        resolver=_decisions, description="Decisions of the safety engine, newest first."
    )
    operators: list[Operator] = strawberry.field(
        resolver=_operators, description="The operators that stages can use, by name."
    )
    viewer: Viewer = strawberry.field(resolver=_viewer, description="The authenticated viewer of this request.")
    health: Health = strawberry.field(resolver=system_health)
    metrics: Metrics = strawberry.field(resolver=system_metrics)
    audit_log: Connection[AuditEntry] = strawberry.field(
        resolver=_audit, metadata=requires(Role.ADMIN), description="The audit log, newest first."
    )
