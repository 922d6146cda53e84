"""Type cast for service rows that resolvers return in place of schema types."""

from __future__ import annotations

from typing import TypeVar, cast

__all__ = ["served"]

T = TypeVar("T")


def served(row: object) -> T:  # type: ignore[type-var] # inferred from the context
    """Cast a row to the schema type that a field declares.

    The GraphQL executor reads the row's attributes under the type's field names, so nothing is copied. The cast is for
    type checkers, because a row is not an instance of the schema type.
    """
    return cast("T", row)
