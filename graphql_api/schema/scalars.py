"""Custom scalars (JSON without NaN and infinity, integers beyond 32 bits), and helpers for fields of service rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NewType, TypeVar, cast

import strawberry
from graphql import GraphQLError, IntValueNode, StringValueNode, ValueNode
from strawberry.types.scalar import ScalarDefinition

from flexiroaster.service.safety.decisions import Action

__all__ = ["JSON", "SCALARS", "BigInt", "as_schema_type", "lazy_type", "resolved_from"]

strawberry.enum(Action, name="DecisionAction")  # `Action` alone is too vague in the schema

JSON = NewType("JSON", object)
"""Any JSON value. NaN and infinity, which JSON cannot represent, are null."""

BigInt = NewType("BigInt", int)
"""An integer of any size that JavaScript reads exactly: a number up to 2^53, a string beyond that."""

_MAX_SAFE_INTEGER = 2**53 - 1


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _serialize_big(value: Any) -> int | str:  # noqa: ANN401 - the value of any resolver
    number = int(value)
    return number if abs(number) <= _MAX_SAFE_INTEGER else str(number)


def _parse_big(value: Any) -> int:  # noqa: ANN401 - any value from the client
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise GraphQLError(f"BigInt cannot represent {value!r}: it must be an integer, or a string with an integer")
    try:
        return int(value)
    except ValueError as error:
        raise GraphQLError(f"BigInt cannot represent {value!r}: it is not an integer") from error


def _parse_big_literal(node: ValueNode, _variables: object = None) -> int:
    if isinstance(node, IntValueNode | StringValueNode):
        return _parse_big(node.value)
    raise GraphQLError("BigInt must be an integer, or a string with an integer", node)


SCALARS: Mapping[object, ScalarDefinition] = {
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value. NaN and infinity, which JSON cannot represent, are null.",
        serialize=_finite,
        parse_value=lambda value: value,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description="An integer of any size: a number up to 2^53, a string beyond that.",
        serialize=_serialize_big,
        parse_value=_parse_big,
        parse_literal=_parse_big_literal,
    ),
}
"""For `StrawberryConfig.scalar_map`."""


# --- fields whose values are service rows ---

T = TypeVar("T")


def as_schema_type(row: object) -> T:  # type: ignore[type-var] # inferred from the context
    """Cast a row to the schema type that a field declares.

    The GraphQL executor reads the row's attributes under the type's field names, so nothing is copied. The cast is for
    type checkers, because a row is not an instance of the schema type.
    """
    return cast("T", row)


def resolved_from(row_type: type) -> Any:  # noqa: ANN401 - as strawberry reads it
    """Return the `is_type_of` of a schema type whose values are rows of this type."""
    return staticmethod(lambda value, _info: isinstance(value, row_type))


def lazy_type(name: str, module: str) -> Any:  # noqa: ANN401 - a type as strawberry reads it
    """Refer to a nullable type of the schema whose module imports the module that refers to it.

    Object types of the schema refer to one another in circles (execution, pipeline, decision); modules do not.
    strawberry looks the name up when it builds the schema.
    """
    annotated: Any = Annotated  # for type checkers: the name is a value here
    return annotated[name, strawberry.lazy(module)] | None
