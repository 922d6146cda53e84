"""Stages in a pipeline's definition."""

from __future__ import annotations

import strawberry

from flexiroaster.errors import ErrorClass, NotFoundError
from flexiroaster.model import pipeline
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.viewer import Role
from flexiroaster.operators import registry
from graphql_api.permissions import fields_require
from graphql_api.schema.scalars import JSON

__all__ = ["Stage"]


def _operator(root: strawberry.Parent[pipeline.Stage]) -> str | None:
    try:
        return registry.operator_of(root.type, root.config)
    except NotFoundError:  # its package is no longer installed here
        return None


@fields_require(Role.VIEWER)
@strawberry.type
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
