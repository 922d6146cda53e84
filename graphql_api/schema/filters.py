"""Filter and sort arguments of lists, and their conversion to the service's filters."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import strawberry

from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
from flexiroaster.service.safety.decisions import Action, DecisionFilter
from graphql_api.schema.relay import key_of

__all__ = [
    "DecisionFilterInput",
    "ExecutionFilterInput",
    "ExecutionSort",
    "PipelineFilterInput",
    "PipelineSort",
    "decision_filter",
    "execution_filter",
    "pipeline_filter",
]


T = TypeVar("T")


@strawberry.input(name="ExecutionFilter")
class ExecutionFilterInput:
    """Selects executions that match all given conditions. Bounds are inclusive, except `createdBefore`."""

    pipeline_ids: list[strawberry.ID] | None = None
    statuses: list[ExecutionStatus] | None = None
    triggered_by: list[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    minimal_risk: float | None = None
    maximal_risk: float | None = None
    text: str | None = strawberry.field(
        default=None, description="Text in the execution's id, the pipeline's name or the error message."
    )


@strawberry.input(name="PipelineFilter")
class PipelineFilterInput:
    """Selects pipelines that match all given conditions."""

    ids: list[strawberry.ID] | None = None
    is_active: bool | None = None
    text: str | None = strawberry.field(default=None, description="Text in the id, the name or the description.")


@strawberry.input(name="DecisionFilter")
class DecisionFilterInput:
    """Selects decisions that match all given conditions."""

    pipeline_id: strawberry.ID | None = None
    execution_id: strawberry.ID | None = None
    actions: list[Action] | None = strawberry.field(default=None, description="The chosen actions to include.")


def execution_filter(given: ExecutionFilterInput | None) -> ExecutionFilter:
    """Convert to the service's filter of executions."""
    if given is None:
        return ExecutionFilter()
    return ExecutionFilter(
        pipeline_ids=_keys("Pipeline", given.pipeline_ids),
        statuses=_tuple(given.statuses),
        triggered_by=_tuple(given.triggered_by),
        created_after=given.created_after,
        created_before=given.created_before,
        minimal_risk=given.minimal_risk,
        maximal_risk=given.maximal_risk,
        text=given.text,
    )


def pipeline_filter(given: PipelineFilterInput | None) -> PipelineFilter:
    """Convert to the service's filter of pipelines."""
    if given is None:
        return PipelineFilter()
    return PipelineFilter(ids=_keys("Pipeline", given.ids), is_active=given.is_active, text=given.text)


def decision_filter(given: DecisionFilterInput | None) -> DecisionFilter:
    """Convert to the service's filter of decisions."""
    if given is None:
        return DecisionFilter()
    return DecisionFilter(
        pipeline_id=None if given.pipeline_id is None else key_of("Pipeline", given.pipeline_id),
        execution_id=None if given.execution_id is None else key_of("Execution", given.execution_id),
        actions=None if given.actions is None else tuple(action.value for action in given.actions),
    )


def _keys(kind: str, ids: list[strawberry.ID] | None) -> tuple[str, ...] | None:
    return None if ids is None else tuple(key_of(kind, given) for given in ids)


def _tuple(values: list[T] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(values)
