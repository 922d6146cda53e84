"""The GraphQL schema: `schema` is the one that the server serves and that `graphql_api/schema.graphql` shows."""

from __future__ import annotations

import inspect

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.enum import StrawberryEnumDefinition

from graphql_api.schema.errors import HANDLERS
from graphql_api.schema.execution import Event, StageRun
from graphql_api.schema.mutations import Mutation
from graphql_api.schema.pipeline import PipelineRevision
from graphql_api.schema.queries import Query
from graphql_api.schema.scalars import SCALARS
from graphql_api.schema.subscriptions import Subscription

__all__ = ["schema"]


def _build() -> strawberry.Schema:
    """Build the complete schema; docstrings of classes become descriptions of types."""
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
    """The docstring of the class behind a type or an enum; strawberry itself does not use it as the description."""
    if isinstance(definition, StrawberryObjectDefinition):
        return inspect.cleandoc((definition.concrete_of or definition).origin.__doc__ or "") or None
    if isinstance(definition, StrawberryEnumDefinition):
        return inspect.cleandoc(definition.wrapped_cls.__doc__ or "") or None
    return None


schema = _build()
