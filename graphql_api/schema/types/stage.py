"""Stages, as a pipeline defines them."""

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
    except NotFoundError:  # of a package that is not installed here any more
        return None


@fields_require(Role.VIEWER)
@strawberry.type
class Stage:
    """One step of a pipeline, as defined. Times are seconds."""

    stage_id: str = strawberry.field(resolver=lambda root: root.id, description="Unique within its pipeline.")
    name: str = strawberry.field(resolver=lambda root: root.title)
    type: StageType
    description: str
    operator: str | None = strawberry.field(
        resolver=_operator, description="What it does, such as `transform.join`; null: it is not installed here."
    )
    config: JSON
    dependencies: list[str]
    timeout: float | None
    max_retries: int | None
    retry_delay: float | None
    retry_backoff: float | None
    max_retry_delay: float
    retry_on: list[ErrorClass] = strawberry.field(description="The classes of failure that are tried again.")
    memory_limit: int | None = strawberry.field(description="MiB an attempt may add.")
    is_critical: bool = strawberry.field(description="Whether the execution fails with it.")
