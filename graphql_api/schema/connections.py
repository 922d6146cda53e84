"""Relay connections: keyset pages in both directions, with a total count on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import strawberry

from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require

__all__ = ["Connection", "Edge", "Listed", "PageInfo"]

T = TypeVar("T")


@fields_require(Role.VIEWER)
@strawberry.type
class PageInfo:
    """The position of a page in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@fields_require(Role.VIEWER)
@strawberry.type(description="An item of a page and its cursor, which marks its position in the list.")
class Edge(Generic[T]):
    """An item of a page and its cursor."""

    node: T
    cursor: str


@dataclass(frozen=True, slots=True)
class Listed:
    """The source of a connection: the items of a page, their cursors, and a function that counts the whole list."""

    items: tuple[object, ...]
    cursors: tuple[str, ...]
    has_next: bool
    has_previous: bool
    count: Callable[[], int]

    @property
    def nodes(self) -> tuple[object, ...]:
        """The items."""
        return self.items

    @property
    def edges(self) -> list[_Edge]:
        """The items with their cursors."""
        return [_Edge(item, cursor) for item, cursor in zip(self.items, self.cursors, strict=True)]

    @property
    def page_info(self) -> PageInfo:
        """The position of the page in its list."""
        first, last = (self.cursors[0], self.cursors[-1]) if self.cursors else (None, None)
        return PageInfo(
            has_next_page=self.has_next, has_previous_page=self.has_previous, start_cursor=first, end_cursor=last
        )


@dataclass(frozen=True, slots=True)
class _Edge:
    node: object
    cursor: str


def _count(root: strawberry.Parent[Listed]) -> int:
    return root.count()


@fields_require(Role.VIEWER)
@strawberry.type(description="A page of a list. `nodes` are the items of `edges` without their cursors.")
class Connection(Generic[T]):
    """A page of a list."""

    edges: list[Edge[T]]
    nodes: list[T]
    page_info: PageInfo
    total_count: int = strawberry.field(
        resolver=_count, description="Number of items in the whole list. It costs a query of its own, if requested."
    )
