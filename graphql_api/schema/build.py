"""The schema, put together."""

from __future__ import annotations

import inspect

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.enum import StrawberryEnumDefinition

from graphql_api.schema.errors import HANDLERS
from graphql_api.schema.mutations.decisions import DecisionMutations
from graphql_api.schema.mutations.executions import ExecutionMutations
from graphql_api.schema.mutations.pipelines import PipelineMutations
from graphql_api.schema.queries import Query
from graphql_api.schema.scalars import SCALARS
from graphql_api.schema.subscriptions import Subscription
from graphql_api.schema.types.event import Event
from graphql_api.schema.types.pipeline import PipelineRevision
from graphql_api.schema.types.stage_run import StageRun

__all__ = ["build"]


@strawberry.type
class Mutation(PipelineMutations, ExecutionMutations, DecisionMutations):
    """What can be changed. Each is written down in the audit log."""


def build() -> strawberry.Schema:
    """The schema with everything in it, described by the docstrings of its classes."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[PipelineRevision, StageRun, Event],
        exception_handlers=HANDLERS,
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    for graphql_type in schema._schema.type_map.values():
        if graphql_type.description is None:
            definition = graphql_type.extensions.get("strawberry-definition")
            graphql_type.description = _docstring(definition)
    return schema


def _docstring(definition: object) -> str | None:
    """Of the class that a type or an enum was made of; strawberry itself does not show it."""
    if isinstance(definition, StrawberryObjectDefinition):
        return inspect.cleandoc(definition.origin.__doc__ or "") or None
    if isinstance(definition, StrawberryEnumDefinition):
        return inspect.cleandoc(definition.wrapped_cls.__doc__ or "") or None
    return None
