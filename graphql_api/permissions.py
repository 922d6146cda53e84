"""Field permissions: every field declares its required role, and every document is checked before it runs.

    @fields_require(Role.VIEWER)          # the default for the fields of this type
    @strawberry.type
    class Pipeline:
        name: str
        token: str = strawberry.field(metadata=requires(Role.ADMIN))

A field that declares no role is refused to every viewer; `undeclared` lists such fields. An interface field requires
the highest role that any implementation of it requires, so that an interface cannot bypass a permission.
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
"""Error code of an operation that the viewer's role does not permit."""

_KEY = "flexiroaster.permission"
_INTROSPECTION = frozenset({"__schema", "__type"})

_defaults: dict[type, Role] = {  # Relay's own types expose only nodes, whose fields declare their own roles
    relay.Connection: Role.VIEWER,
    relay.Edge: Role.VIEWER,
    relay.ListConnection: Role.VIEWER,
    relay.Node: Role.VIEWER,
    relay.PageInfo: Role.VIEWER,
}

T = TypeVar("T", bound=type)


class UndeclaredPermissionError(FlexiRoasterError):
    """A field of the schema declares no required role."""

    code = "permission.undeclared"


def requires(role: Role) -> dict[str, Role]:
    """Return the metadata of a field that needs this role: `strawberry.field(metadata=requires(Role.OPERATOR))`."""
    return {_KEY: role}


def fields_require(role: Role) -> Callable[[T], T]:
    """Declare the default role for the fields of a type; place it above `@strawberry.type`.

    Inherited fields keep the role that their defining type declares.
    """

    def declare(cls: T) -> T:
        _defaults[cls] = role
        return cls

    return declare


def permissions(schema: strawberry.Schema) -> Mapping[tuple[str, str], Role]:
    """Return the required role by type and field name; fields that declare no role are missing."""
    return _table(schema._schema)  # strawberry has no public name for the schema it builds


def permission_of(schema: strawberry.Schema, type_name: str, field_name: str) -> Role:
    """Return a field's required role. Raises UndeclaredPermissionError if it declares none or does not exist."""
    try:
        return permissions(schema)[type_name, field_name]
    except KeyError as error:
        raise UndeclaredPermissionError(f"{type_name}.{field_name} declares no required role") from error


def undeclared(schema: strawberry.Schema) -> list[str]:
    """List the fields that declare no role, as `Type.field`; a complete schema has none."""
    table = permissions(schema)
    types = _types(schema._schema)
    return [f"{t.name}.{name}" for t in types for name in t.fields if (t.name, name) not in table]


@lru_cache(maxsize=16)
def permission_rule(role: Role, *, introspection: bool) -> type[ValidationRule]:
    """Return the validation rule that refuses fields above a role; `introspection`: whether it may read the schema."""

    class PermissionRule(ValidationRule):
        def enter_field(self, node: FieldNode, *_: object) -> None:
            name = node.name.value
            if name in _INTROSPECTION and not introspection:
                self.report_error(_forbidden("Introspection is not available to your role", node))
            parent = self.context.get_parent_type()
            if name.startswith("__") or parent is None or parent.name.startswith("__"):
                return
            if name not in getattr(parent, "fields", ()):
                return  # another rule reports the unknown field
            needed = _table(self.context.schema).get((parent.name, name))
            if needed is None:
                self.report_error(_forbidden(f"{parent.name}.{name} declares no required role", node))
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
    """The class that defines a field: the type itself, or the base class that it inherits the field from."""
    for base in reversed(cls.__mro__):
        definition = base.__dict__.get("__strawberry_definition__")
        if definition is not None and (field.origin is base or any(f is field for f in definition.fields)):
            return base
    return cls
