"""Operators: the operations that stages can perform."""

from __future__ import annotations

from typing import Any

import strawberry

from flexiroaster.errors import NotFoundError
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.viewer import Role
from flexiroaster.operators import document, registry
from flexiroaster.operators.base import Operator as OperatorBase
from flexiroaster.operators.fields import config_schema
from graphql_api.permissions import fields_require
from graphql_api.schema.scalars import JSON

__all__ = ["Operator", "operators"]

_Root = strawberry.Parent[type[OperatorBase[Any]]]


def _name(root: _Root) -> str:
    return document.full_name(root)


def _summary(root: _Root) -> str:
    return document.description_of(root).partition("\n")[0]


def _description(root: _Root) -> str:
    return document.description_of(root)


def _schema(root: _Root) -> JSON:
    return JSON(config_schema(root))


def _example(root: _Root) -> JSON | None:
    example = document.example_of(root)
    return JSON(example) if example else None


@fields_require(Role.VIEWER)
@strawberry.type
class Operator:
    """An operation that a stage can perform."""

    name: str = strawberry.field(resolver=_name, description="Full name, such as `transform.join`.")
    stage_type: StageType
    summary: str = strawberry.field(resolver=_summary)
    description: str = strawberry.field(resolver=_description, description="Description in Markdown.")
    config_schema: JSON = strawberry.field(resolver=_schema, description="JSON Schema of the stage's `config`.")
    example: JSON | None = strawberry.field(resolver=_example, description="An example of a valid `config`.")
    least_inputs: int = strawberry.field(
        resolver=lambda root: root.arity.least, description="Minimum number of input tables."
    )
    most_inputs: int | None = strawberry.field(
        resolver=lambda root: root.arity.most, description="Maximum number of input tables; null means no limit."
    )


def operators(stage_type: StageType | None = None, names: list[str] | None = None) -> list[type[OperatorBase[Any]]]:
    """List the operators that can be loaded here, by name; restrict them to a stage type or to names if given."""
    found = []
    for name in registry.names(stage_type):
        if names is None or name in names:
            try:
                found.append(registry.find(name))
            except NotFoundError:  # its package is broken here: `flexiroaster operators` reports the reason
                continue
    return found
