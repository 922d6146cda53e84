"""Global ids: `Type:key` in base64, opaque to clients. Arguments also accept a plain key, which is easier to type."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import strawberry
from graphql import FieldNode, FragmentSpreadNode, GraphQLResolveInfo, InlineFragmentNode, SelectionSetNode

from flexiroaster.errors import InputError
from flexiroaster.model.viewer import Role
from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.events import EventFilter
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.pipelines import PipelineFilter, PipelineSort
from flexiroaster.service.reads import Page, Window
from flexiroaster.service.safety import decisions
from flexiroaster.service.safety.decisions import DecisionFilter
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.scalars import served

__all__ = [
    "HEAVY",
    "Connection",
    "Edge",
    "Listed",
    "Node",
    "PageInfo",
    "Window",
    "asked",
    "bare",
    "connection",
    "decision_page",
    "decode",
    "encode",
    "event_page",
    "execution_page",
    "key_of",
    "pipeline_page",
    "revision_page",
]


def encode(kind: str, *keys: str) -> str:
    """Return the global id of an object from its type and the parts of its key, which are joined by `/`."""
    return base64.urlsafe_b64encode(f"{kind}:{'/'.join(keys)}".encode()).decode()


def decode(global_id: str) -> tuple[str, str]:
    """Return the type and the key of a global id. Raises InputError."""
    try:
        kind, colon, key = base64.b64decode(global_id, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError) as error:
        raise InputError(f"Not a global id: {global_id!r}", argument="id") from error
    if not colon or not kind.isalpha() or not key:
        raise InputError(f"Not a global id: {global_id!r}", argument="id")
    return kind, key


def key_of(kind: str, given: str) -> str:
    """Return the key from a global id of this type, or the argument itself. Raises InputError (id of another type)."""
    try:
        found, key = decode(given)
    except InputError:
        return given
    if found == kind:
        return key
    if found in KINDS:
        raise InputError(f"{given!r} is the id of a {found}, not of a {kind}", argument="id")
    return given


def bare(given: str) -> str:
    """Return the key from a global id of any type, or the argument itself."""
    try:
        kind, key = decode(given)
    except InputError:
        return given
    return key if kind in KINDS else given


KINDS = frozenset({"Pipeline", "PipelineRevision", "Execution", "StageRun", "Event", "Decision"})
"""The types that have global ids."""


# The Relay interface of objects with a global id.
@fields_require(Role.VIEWER)
@strawberry.interface
class Node:
    """An object that `node` can fetch again by its global id."""

    id: strawberry.ID = strawberry.field(description="Global id, opaque to clients.")


# Relay connections: keyset pages in both directions, with a total count on request.
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


# Pages of lists: conversion of the service's pages to connections. Large columns are read only if requested.
HEAVY = frozenset({"variables", "error"})
"""Columns of an execution that may be large; their schema fields have the same names."""


def connection(page: Page[Any], count: Callable[[], int]) -> Connection[Any]:
    """Return the connection of a page; `count` counts the whole list, but only if `totalCount` is requested."""
    return served(Listed(page.items, page.cursors, page.has_next, page.has_previous, count))


def execution_page(info: Info, wanted: ExecutionFilter, sort: ExecutionSort, window: Window) -> Connection[Any]:
    """Return a page of executions, with their large columns only if requested."""
    installation = info.context.installation
    page = executions.page(installation, wanted, sort, window, leave_out=HEAVY - asked(info))
    return connection(page, lambda: executions.count(installation, wanted))


def pipeline_page(info: Info, wanted: PipelineFilter, sort: PipelineSort, window: Window) -> Connection[Any]:
    """Return a page of pipelines, without their definitions."""
    installation = info.context.installation
    page = pipelines.page(installation, wanted, sort, window)
    return connection(page, lambda: pipelines.count(installation, wanted))


def revision_page(info: Info, pipeline_id: str, window: Window) -> Connection[Any]:
    """Return a page of a pipeline's revisions, newest first."""
    installation = info.context.installation
    page = pipelines.revisions(installation, pipeline_id, window)
    return connection(page, lambda: pipelines.get(installation, pipeline_id).revision)


def event_page(info: Info, execution_id: str, wanted: EventFilter, window: Window) -> Connection[Any]:
    """Return a page of an execution's events, in order."""
    installation = info.context.installation
    page = events.page(installation, execution_id, wanted, window)
    return connection(page, lambda: events.count(installation, execution_id, wanted))


def decision_page(info: Info, wanted: DecisionFilter, window: Window) -> Connection[Any]:
    """Return a page of the safety engine's decisions, newest first."""
    installation = info.context.installation
    page = decisions.page(installation, wanted, window)
    return connection(page, lambda: decisions.count(installation, wanted))


def asked(info: Info) -> frozenset[str]:
    """Return the names of all fields below this one in the document, including those that a directive skips."""
    raw = info._raw_info  # strawberry's own view copies the whole selection
    return frozenset(name for node in raw.field_nodes for name in _names(node.selection_set, raw))


def _names(selections: SelectionSetNode | None, raw: GraphQLResolveInfo[Any]) -> Iterator[str]:
    for selection in selections.selections if selections else ():
        if isinstance(selection, FieldNode):
            yield selection.name.value
            yield from _names(selection.selection_set, raw)
        elif isinstance(selection, InlineFragmentNode):
            yield from _names(selection.selection_set, raw)
        elif isinstance(selection, FragmentSpreadNode):
            yield from _names(raw.fragments[selection.name.value].selection_set, raw)
