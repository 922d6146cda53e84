"""Input types of pipeline definitions and filters, and their conversion to what the service takes.

GraphQL checks only the types of the fields; the service then reports all other problems at once.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

import strawberry
from strawberry.types.base import has_object_definition
from strawberry.types.unset import UNSET

from flexiroaster.errors import ErrorClass, InputError
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import OnConflict, StageType
from flexiroaster.model.validation_messages import shown
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
from flexiroaster.service.safety.decisions import Action, DecisionFilter
from graphql_api.schema.relay import key_of
from graphql_api.schema.scalars import JSON

__all__ = [
    "DecisionFilterInput",
    "ExecutionFilterInput",
    "ExecutionSort",
    "PipelineChanges",
    "PipelineFilterInput",
    "PipelineInput",
    "PipelineSort",
    "StageInput",
    "decision_filter",
    "execution_filter",
    "json_object",
    "pipeline_filter",
    "to_document",
]

T = TypeVar("T")


@strawberry.input
class StageInput:
    """One step of a pipeline. Times are in seconds; omitted fields use the installation's settings."""

    id: str = strawberry.field(description="Unique within the pipeline; letters, digits, `_`, `.` and `-`.")
    type: StageType
    name: str | None = UNSET
    description: str | None = UNSET
    config: JSON | None = strawberry.field(default=UNSET, description="Configuration of the operator; see `operators`.")
    dependencies: list[str] | None = strawberry.field(default=UNSET, description="Ids of the stages that it waits for.")
    timeout: float | None = UNSET
    max_retries: int | None = UNSET
    retry_delay: float | None = UNSET
    retry_backoff: float | None = UNSET
    max_retry_delay: float | None = UNSET
    retry_on: list[ErrorClass] | None = UNSET
    memory_limit: int | None = strawberry.field(default=UNSET, description="Memory that an attempt may add, in MiB.")
    is_critical: bool | None = UNSET


@strawberry.input
class PipelineInput:
    """A pipeline definition: a graph of stages, and the settings for its executions."""

    name: str
    stages: list[StageInput]
    id: str | None = strawberry.field(default=UNSET, description="Your own id for the pipeline; generated if omitted.")
    description: str | None = UNSET
    version: str | None = UNSET
    is_active: bool | None = UNSET
    schedule: str | None = UNSET
    variables: JSON | None = strawberry.field(default=UNSET, description="Default values for `${name}` in configs.")
    timeout: float | None = strawberry.field(default=UNSET, description="Time limit of a whole execution in seconds.")
    concurrency: int | None = strawberry.field(
        default=UNSET, description="Maximum number of live executions; null means no limit, omitted means 1."
    )
    on_conflict: OnConflict | None = UNSET
    config: JSON | None = UNSET


@strawberry.input
class PipelineChanges:
    """The fields to change. Omitted fields keep their values; null clears a field that may be empty."""

    name: strawberry.Maybe[str]
    stages: strawberry.Maybe[list[StageInput]]
    description: strawberry.Maybe[str | None]
    version: strawberry.Maybe[str]
    is_active: strawberry.Maybe[bool]
    schedule: strawberry.Maybe[str | None]
    variables: strawberry.Maybe[JSON]
    timeout: strawberry.Maybe[float | None]
    concurrency: strawberry.Maybe[int | None]
    on_conflict: strawberry.Maybe[OnConflict]
    config: strawberry.Maybe[JSON]


def to_document(given: object) -> dict[str, Any]:
    """Return the fields that the client gave, without the omitted ones, as mappings, lists and plain values."""
    found = {field.name: getattr(given, field.name) for field in fields(given)}  # type: ignore[arg-type] # an input is a dataclass
    changes = isinstance(given, PipelineChanges)
    return {n: _to_json(v) for n, v in found.items() if v is not UNSET and not (v is None and changes)}


def _to_json(value: Any) -> Any:  # noqa: ANN401 - the value of any input field
    if isinstance(value, strawberry.Some):
        return _to_json(value.value)
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return to_document(value) if has_object_definition(value) else value


def json_object(given: object, argument: str) -> dict[str, Any]:
    """Return a JSON argument as an object; empty if it was omitted. Raises InputError if it is no object."""
    if given is None or given is UNSET:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"`{argument}` must be a JSON object, not {shown(given)}", argument=argument)
    return given


# --- filters of lists ---


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
    given = given or ExecutionFilterInput()
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
    given = given or PipelineFilterInput()
    return PipelineFilter(ids=_keys("Pipeline", given.ids), is_active=given.is_active, text=given.text)


def decision_filter(given: DecisionFilterInput | None) -> DecisionFilter:
    """Convert to the service's filter of decisions."""
    given = given or DecisionFilterInput()
    return DecisionFilter(
        pipeline_id=None if given.pipeline_id is None else key_of("Pipeline", given.pipeline_id),
        execution_id=None if given.execution_id is None else key_of("Execution", given.execution_id),
        actions=None if given.actions is None else tuple(action.value for action in given.actions),
    )


def _keys(type_name: str, ids: list[strawberry.ID] | None) -> tuple[str, ...] | None:
    return None if ids is None else tuple(key_of(type_name, given) for given in ids)


def _tuple(values: list[T] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(values)
