"""Rows of the service that the schema's types are served from."""

from __future__ import annotations

from typing import TypeVar, cast

__all__ = ["served"]

T = TypeVar("T")


def served(row: object) -> T:  # type: ignore[type-var] # the type is the one that the context asks for
    """A row, where a field promises the type that it is served as.

    The executor reads the row's attributes under the type's names, so nothing is copied; type checkers know only the
    class of the type, which such a row is none of.
    """
    return cast("T", row)
