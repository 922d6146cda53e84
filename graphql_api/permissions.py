"""Who may use which field: every field declares the role it needs, and a document is checked before anything runs.

    @fields_require(Role.VIEWER)          # what fields need that do not say otherwise
    @strawberry.type
    class Pipeline:
        name: str
        token: str = strawberry.field(metadata=requires(Role.ADMIN))

A field that declares nothing is refused to everybody, and `undeclared` names it. Fields of an interface need the most
that any implementation's field needs, so that no interface is a way around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import strawberry
from graphql import FieldNode, GraphQLError, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema
from graphql.validation import ValidationRule
from strawberry import relay
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

from flexiroaster.errors import FlexiRoasterError
from flexiroaster.model.viewer import Role

__all__ = [
    "FORBIDDEN",
    "UndeclaredPermissionError",
    "fields_require",
    "permission_of",
    "permission_rule",
    "permissions",
    "requires",
    "undeclared",
]

FORBIDDEN = "FORBIDDEN"
"""The code of an error that says that the viewer's role does not suffice."""

_KEY = "flexiroaster.permission"
_INTROSPECTION = frozenset({"__schema", "__type"})

_defaults: dict[type, Role] = {  # Relay's own types show nothing beyond what the fields of their nodes protect
    relay.Connection: Role.VIEWER,
    relay.Edge: Role.VIEWER,
    relay.ListConnection: Role.VIEWER,
    relay.Node: Role.VIEWER,
    relay.PageInfo: Role.VIEWER,
}

T = TypeVar("T", bound=type)


class UndeclaredPermissionError(FlexiRoasterError):
    """A field of the schema does not say who may use it."""

    code = "permission.undeclared"


def requires(role: Role) -> dict[str, Role]:
    """The metadata of a field that needs this role: `strawberry.field(metadata=requires(Role.OPERATOR))`."""
    return {_KEY: role}


def fields_require(role: Role) -> Callable[[T], T]:
    """Declare the role that the fields of a type need unless they say otherwise; stands above `@strawberry.type`.

    Inherited fields keep what the type that defines them declares.
    """

    def declare(cls: T) -> T:
        _defaults[cls] = role
        return cls

    return declare


def permissions(schema: strawberry.Schema) -> Mapping[tuple[str, str], Role]:
    """What every field needs, by type and field; fields that declare nothing are missing."""
    return _table(schema._schema)  # strawberry has no public name for the schema it builds


def permission_of(schema: strawberry.Schema, type_name: str, field_name: str) -> Role:
    """What a field needs. Raises UndeclaredPermissionError when it says nothing or does not exist."""
    try:
        return permissions(schema)[type_name, field_name]
    except KeyError as error:
        raise UndeclaredPermissionError(f"{type_name}.{field_name} does not declare who may use it") from error


def undeclared(schema: strawberry.Schema) -> list[str]:
    """The fields that declare nothing, as `Type.field`; a schema is not complete before this is empty."""
    table = permissions(schema)
    types = _types(schema._schema)
    return [f"{t.name}.{name}" for t in types for name in t.fields if (t.name, name) not in table]


@lru_cache(maxsize=16)
def permission_rule(role: Role, *, introspection: bool) -> type[ValidationRule]:
    """The validation rule that refuses what a role may not use; `introspection`: whether it may see the schema."""

    class PermissionRule(ValidationRule):
        def enter_field(self, node: FieldNode, *_: object) -> None:
            name = node.name.value
            if name in _INTROSPECTION and not introspection:
                self.report_error(_forbidden("Introspection is not available to your role", node))
            parent = self.context.get_parent_type()
            if name.startswith("__") or parent is None or parent.name.startswith("__"):
                return
            if name not in getattr(parent, "fields", ()):
                return  # another rule says that there is no such field
            needed = _table(self.context.schema).get((parent.name, name))
            if needed is None:
                self.report_error(_forbidden(f"{parent.name}.{name} is open to nobody", node))
            elif not role.covers(needed):
                self.report_error(_forbidden(f"{parent.name}.{name} needs the role {needed}", node))

    return PermissionRule


def _forbidden(message: str, node: FieldNode) -> GraphQLError:
    return GraphQLError(message, node, extensions={"code": FORBIDDEN})


@lru_cache(maxsize=8)
def _table(schema: GraphQLSchema) -> Mapping[tuple[str, str], Role]:
    table = {
        (type_.name, name): role
        for type_ in _types(schema)
        for name, field in type_.fields.items()
        if (role := _declared(type_, field.extensions)) is not None
    }
    for interface in schema.type_map.values():
        if isinstance(interface, GraphQLInterfaceType):
            _raise_to_implementations(table, schema, interface)
    return table


def _raise_to_implementations(
    table: dict[tuple[str, str], Role], schema: GraphQLSchema, interface: GraphQLInterfaceType
) -> None:
    for name in interface.fields:
        own = table.get((interface.name, name))
        for implementation in schema.get_possible_types(interface):
            other = table.get((implementation.name, name))
            if own is not None and other is not None and other.covers(own):
                own = table[interface.name, name] = other


def _types(schema: GraphQLSchema) -> Iterator[GraphQLObjectType | GraphQLInterfaceType]:
    for name, type_ in sorted(schema.type_map.items()):
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType) and not name.startswith("__"):
            yield type_


def _declared(type_: GraphQLObjectType | GraphQLInterfaceType, extensions: Mapping[str, Any]) -> Role | None:
    field = extensions.get("strawberry-definition")
    if not isinstance(field, StrawberryField):
        return None
    metadata: Mapping[Any, Any] = field.metadata
    said = metadata.get(_KEY)
    if isinstance(said, Role):
        return said
    definition: StrawberryObjectDefinition = type_.extensions["strawberry-definition"]
    return _defaults.get(_owner(definition.origin, field))


def _owner(cls: type, field: StrawberryField) -> type:
    """The class that defines a field: the type's own, or the one it inherits the field from."""
    for base in reversed(cls.__mro__):
        definition = base.__dict__.get("__strawberry_definition__")
        if definition is not None and (field.origin is base or any(f is field for f in definition.fields)):
            return base
    return cls
