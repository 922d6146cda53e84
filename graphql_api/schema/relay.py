"""Relay: global ids and the `Node` interface, and connections with keyset pages in both directions.

A global id is `Type:key` in base64, opaque to clients. Arguments also accept a plain key, which is easier to type.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

import strawberry
from graphql import FieldNode, FragmentSpreadNode, GraphQLResolveInfo, InlineFragmentNode, SelectionSetNode
from strawberry.annotation import StrawberryAnnotation
from strawberry.extensions import FieldExtension
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField

from flexiroaster.errors import InputError
from flexiroaster.model.paging import Page, Window
from flexiroaster.model.viewer import Role
from graphql_api.context import Info
from graphql_api.permissions import interface_type, object_type
from graphql_api.schema.scalars import as_schema_type

__all__ = [
    "Connection",
    "Edge",
    "Node",
    "PageInfo",
    "Window",
    "connection",
    "connection_field",
    "global_id",
    "global_id_field",
    "key_of",
    "parse_global_id",
    "plain_key",
    "selected_field_names",
]

T = TypeVar("T")


# --- global ids ---

TYPES = frozenset({"Pipeline", "PipelineRevision", "Execution", "StageRun", "Event", "Decision"})
"""The types that have global ids."""


@interface_type(Role.VIEWER)
class Node:
    """An object that `node` can fetch again by its global id."""

    id: strawberry.ID = strawberry.field(description="Global id, opaque to clients.")


def global_id_field(type_name: str, *attributes: str) -> Any:  # noqa: ANN401 - a field of the type it is assigned to
    """Return the field `id` of a type whose key consists of these attributes of its rows."""
    keys = [attrgetter(attribute) for attribute in attributes]
    return strawberry.field(resolver=lambda root: global_id(type_name, *(str(key(root)) for key in keys)))


def global_id(type_name: str, *keys: str) -> strawberry.ID:
    """Return the global id of an object from its type and the parts of its key, which are joined by `/`."""
    return strawberry.ID(base64.urlsafe_b64encode(f"{type_name}:{'/'.join(keys)}".encode()).decode())


def parse_global_id(given: str) -> tuple[str, str]:
    """Return the type and the key of a global id. Raises InputError."""
    try:
        type_name, colon, key = base64.b64decode(given, altchars=b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError) as error:
        raise InputError(f"Not a global id: {given!r}", argument="id") from error
    if not colon or not type_name.isalpha() or not key:
        raise InputError(f"Not a global id: {given!r}", argument="id")
    return type_name, key


def key_of(type_name: str, given: str) -> str:
    """Return the key from a global id of this type, or the argument itself. Raises InputError (id of another type)."""
    try:
        found, key = parse_global_id(given)
    except InputError:
        return given
    if found == type_name:
        return key
    if found in TYPES:
        raise InputError(f"{given!r} is the id of a {found}, not of a {type_name}", argument="id")
    return given


def plain_key(given: str) -> str:
    """Return the key from a global id of any type, or the argument itself."""
    try:
        type_name, key = parse_global_id(given)
    except InputError:
        return given
    return key if type_name in TYPES else given


# --- connections ---


@object_type(Role.VIEWER)
class PageInfo:
    """The position of a page in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@object_type(Role.VIEWER)
class Edge(Generic[T]):
    """An item of a page and its cursor, which marks its position in the list."""

    node: T
    cursor: str


@object_type(Role.VIEWER)
class Connection(Generic[T]):
    """A page of a list. `nodes` are the items of `edges` without their cursors."""

    edges: list[Edge[T]]
    nodes: list[T]
    page_info: PageInfo
    total_count: int = strawberry.field(
        resolver=lambda root: root.count(),
        description="Number of items in the whole list. Requesting it costs an additional query.",
    )


@dataclass(frozen=True, slots=True)
class _ConnectionSource:
    """The value behind a connection: a page, and a function that counts the whole list."""

    page: Page[Any]
    count: Callable[[], int]

    @property
    def nodes(self) -> tuple[object, ...]:
        return self.page.items

    @property
    def edges(self) -> list[Edge[Any]]:
        page = self.page
        return [Edge(node=item, cursor=cursor) for item, cursor in zip(page.items, page.cursors, strict=True)]

    @property
    def page_info(self) -> PageInfo:
        page = self.page
        first, last = (page.cursors[0], page.cursors[-1]) if page.cursors else (None, None)
        return PageInfo(
            has_next_page=page.has_next, has_previous_page=page.has_previous, start_cursor=first, end_cursor=last
        )


def connection(page: Page[Any], count: Callable[[], int]) -> Connection[Any]:
    """Return the connection of a page; `count` counts the whole list, but only if `totalCount` is requested."""
    return as_schema_type(_ConnectionSource(page, count))


def connection_field(resolver: Callable[..., Any], **options: Any) -> Any:  # noqa: ANN401 - a field of the type it is assigned to
    """Return a field with the arguments of a page; the resolver receives them as `window`."""
    return strawberry.field(resolver=resolver, extensions=[_WindowArguments()], **options)


class _WindowArguments(FieldExtension):
    """Gives a field `first`, `after`, `last` and `before` in place of the resolver's parameter `window`."""

    _TYPES = (("first", int), ("after", str), ("last", int), ("before", str))

    def apply(self, field: StrawberryField) -> None:
        field.arguments = [argument for argument in field.arguments if argument.python_name != "window"] + [
            StrawberryArgument(name, None, StrawberryAnnotation(type_ | None), default=None)
            for name, type_ in self._TYPES
        ]

    def map_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        window = Window(**{name: kwargs.pop(name, None) for name, _ in self._TYPES})
        return {**kwargs, "window": window}


def selected_field_names(info: Info) -> frozenset[str]:
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
