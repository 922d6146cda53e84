"""Relay connections: pages by key, in both directions, counted only when somebody asks."""

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
    """Where a page stands in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@fields_require(Role.VIEWER)
@strawberry.type(description="An item of a page, with the cursor that names its place.")
class Edge(Generic[T]):
    """An item of a page."""

    node: T
    cursor: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What a connection is resolved from: items of a page with their cursors, and how to count all of the list."""

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
        """Where the page stands."""
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
        resolver=_count, description="How many match in all: a query of its own, asked only if you ask."
    )
