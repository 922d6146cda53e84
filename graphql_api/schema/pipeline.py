"""Pipelines, their revisions and stages, and the operators that stages use.

List rows do not contain the definition; it is loaded only if requested.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Any

import strawberry

from flexiroaster.errors import ErrorClass, NotFoundError
from flexiroaster.model import pipeline as model
from flexiroaster.model.pipeline import OnConflict, StageType
from flexiroaster.model.viewer import Role
from flexiroaster.operators import document, registry
from flexiroaster.operators.base import Operator as OperatorBase
from flexiroaster.service import pipelines
from flexiroaster.service.pipelines import ChangeKind, PipelineRow, RevisionRow
from graphql_api.context import Info
from graphql_api.permissions import interface_type, object_type
from graphql_api.schema.execution import Execution, execution_connection
from graphql_api.schema.inputs import ExecutionFilterInput, ExecutionSort, execution_filter
from graphql_api.schema.relay import Connection, Node, Window, connection, connection_field, global_id_field
from graphql_api.schema.scalars import JSON, as_schema_type, resolved_from

__all__ = ["Definition", "Difference", "Operator", "Pipeline", "PipelineRevision", "Stage", "operators"]


def _operator(root: strawberry.Parent[model.Stage]) -> str | None:
    try:
        return registry.operator_of(root.type, root.config)
    except NotFoundError:  # its package is no longer installed here
        return None


@object_type(Role.VIEWER)
class Stage:
    """One step of a pipeline, as defined. Times are in seconds."""

    stage_id: str = strawberry.field(resolver=lambda root: root.id, description="Unique within its pipeline.")
    name: str = strawberry.field(resolver=lambda root: root.title)
    type: StageType
    description: str
    operator: str | None = strawberry.field(
        resolver=_operator, description="Its operator, such as `transform.join`; null if it is not installed here."
    )
    config: JSON
    dependencies: list[str]
    timeout: float | None
    max_retries: int | None
    retry_delay: float | None
    retry_backoff: float | None
    max_retry_delay: float
    retry_on: list[ErrorClass] = strawberry.field(description="The failure classes that are retried.")
    memory_limit: int | None = strawberry.field(description="Memory that an attempt may add, in MiB.")
    is_critical: bool = strawberry.field(description="Whether the execution fails if the stage fails.")


async def _load(root: PipelineRow | RevisionRow, info: Info) -> model.Pipeline:
    pipeline_id = root.id if isinstance(root, PipelineRow) else root.pipeline_id
    loaded = await info.context.loaders.revisions.load((pipeline_id, root.revision))
    if loaded is None:
        raise NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return loaded.pipeline


def _field(name: str, description: str | None = None, take: Callable[[model.Pipeline], Any] | None = None) -> Any:  # noqa: ANN401 - a field of the type it is assigned to
    """Return the field of a value in the pipeline's definition, by default its attribute `name`."""
    read = take or attrgetter(name)

    async def resolve(root: Any, info: Info) -> Any:  # noqa: ANN401 - the field's type is the class's annotation
        return read(await _load(root, info))

    resolve.__name__ = name
    return strawberry.field(resolver=resolve, description=description)


@interface_type(Role.VIEWER)
class Definition:
    """The definition of a pipeline: its stages and the settings for its executions."""

    stages: list[Stage] = _field("stages")
    order: list[str] = _field("order", "The ids of the stages in topological order.", lambda p: p.order())
    variables: JSON = _field("variables", "Default values for `${name}` in configs.")
    timeout: float | None = _field("timeout", "Time limit of a whole execution in seconds.")
    concurrency: int | None = _field("concurrency", "Maximum number of live executions; null means no limit.")
    on_conflict: OnConflict = _field("on_conflict")
    config: JSON = _field("config")
    document: JSON = _field("document", "The definition as one JSON document.", lambda p: p.document())


@object_type(Role.VIEWER)
class PipelineRevision(Definition, Node):
    """One revision of a pipeline's definition."""

    id: strawberry.ID = global_id_field("PipelineRevision", "pipeline_id", "revision")
    pipeline_id: str
    revision: int
    created_at: datetime = strawberry.field(description="When this revision was stored.")
    name: str = _field("name")
    description: str = _field("description")
    version: str = _field("version")

    is_type_of = resolved_from(RevisionRow)


@object_type(Role.VIEWER)
class Difference:
    """One difference between two revisions of a pipeline."""

    path: str = strawberry.field(description="Path in the definition; stages are identified by their id.")
    kind: ChangeKind
    before: JSON | None
    after: JSON | None


async def _latest(root: strawberry.Parent[PipelineRow], info: Info) -> Execution | None:
    rows = await info.context.loaders.latest_executions.load(root.id)
    return as_schema_type(rows[0] if rows else None)


def _executions(
    root: strawberry.Parent[PipelineRow],
    info: Info,
    window: Window,
    filter: ExecutionFilterInput | None = None,
    order: ExecutionSort = ExecutionSort.NEWEST,
) -> Connection[Execution]:
    return execution_connection(info, replace(execution_filter(filter), pipeline_ids=(root.id,)), order, window)


def _revisions(root: strawberry.Parent[PipelineRow], info: Info, window: Window) -> Connection[PipelineRevision]:
    installation = info.context.installation
    page = pipelines.revisions(installation, root.id, window)
    return connection(page, lambda: pipelines.get(installation, root.id).revision)


def _diff(root: strawberry.Parent[PipelineRow], info: Info, base: int, to: int | None = None) -> list[Difference]:
    target = root.revision if to is None else to
    return as_schema_type(pipelines.diff(info.context.installation, root.id, base, target))


@object_type(Role.VIEWER)
class Pipeline(Definition, Node):
    """A pipeline at its current revision."""

    id: strawberry.ID = global_id_field("Pipeline", "id")
    pipeline_id: str = strawberry.field(
        resolver=lambda root: root.id, description="The id in REST and on the command line."
    )
    name: str
    description: str
    version: str
    is_active: bool
    schedule: str | None
    stage_count: int
    revision: int
    created_at: datetime
    updated_at: datetime | None
    latest_execution: Execution | None = strawberry.field(resolver=_latest)
    executions: Connection[Execution] = connection_field(_executions)
    revisions: Connection[PipelineRevision] = connection_field(_revisions, description="Newest first.")
    diff: list[Difference] = strawberry.field(
        resolver=_diff, description="Differences from revision `base` to revision `to`, by default the current one."
    )

    is_type_of = resolved_from(PipelineRow)


# --- operators ---


def _example(root: strawberry.Parent[type[OperatorBase[Any]]]) -> JSON | None:
    example = document.example_of(root)
    return JSON(example) if example else None


@object_type(Role.VIEWER)
class Operator:
    """An operation that a stage can perform."""

    name: str = strawberry.field(
        resolver=lambda root: document.full_name(root), description="Full name, such as `transform.join`."
    )
    stage_type: StageType
    summary: str = strawberry.field(resolver=lambda root: document.description_of(root).partition("\n")[0])
    description: str = strawberry.field(
        resolver=lambda root: document.description_of(root), description="Description in Markdown."
    )
    config_schema: JSON = strawberry.field(
        resolver=lambda root: JSON(document.config_schema(root)), description="JSON Schema of the stage's `config`."
    )
    example: JSON | None = strawberry.field(resolver=_example, description="An example of a valid `config`.")
    least_inputs: int = strawberry.field(
        resolver=lambda root: root.arity.minimum, description="Minimum number of input tables."
    )
    most_inputs: int | None = strawberry.field(
        resolver=lambda root: root.arity.maximum, description="Maximum number of input tables; null means no limit."
    )


def operators(stage_type: StageType | None = None, names: list[str] | None = None) -> list[Operator]:
    """List the operators that can be loaded here, by name; restrict them to a stage type or to names if given."""
    found = []
    for name in registry.names(stage_type):
        if names is None or name in names:
            with suppress(NotFoundError):  # its package is broken here: `flexiroaster operators` reports the reason
                found.append(registry.find(name))
    return as_schema_type(found)
