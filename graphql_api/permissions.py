"""Field permissions: every field declares its required role, and every document is checked before it runs.

    @object_type(Role.VIEWER)             # the default for the fields of this type
    class Pipeline:
        name: str
        token: str = strawberry.field(metadata=requires(Role.ADMIN))

A field that declares no role is refused to every viewer; `undeclared_fields` lists such fields. An interface field
requires the highest role that any implementation of it requires, so that an interface cannot bypass a permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar, dataclass_transform

import strawberry
from graphql import FieldNode, GraphQLError, GraphQLInterfaceType, GraphQLObjectType, GraphQLSchema
from graphql.validation import ValidationRule
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

from flexiroaster.model.viewer import Role

__all__ = [
    "FORBIDDEN",
    "interface_type",
    "object_type",
    "permission_rule",
    "permissions",
    "requires",
    "undeclared_fields",
]

FORBIDDEN = "FORBIDDEN"
"""Error code of an operation that the viewer's role does not permit."""

_KEY = "flexiroaster.permission"
_INTROSPECTION = frozenset({"__schema", "__type"})

_defaults: dict[type, Role] = {}

T = TypeVar("T", bound=type)


def requires(role: Role) -> dict[str, Role]:
    """Return the metadata of a field that needs this role: `strawberry.field(metadata=requires(Role.OPERATOR))`."""
    return {_KEY: role}


@dataclass_transform(kw_only_default=True, field_specifiers=(strawberry.field, StrawberryField))
def object_type(role: Role) -> Callable[[T], T]:
    """Declare a class as an object type of the schema, with the default role for its fields.

    Inherited fields keep the role that their defining type declares.
    """
    return lambda cls: strawberry.type(_with_default(cls, role))


@dataclass_transform(kw_only_default=True, field_specifiers=(strawberry.field, StrawberryField))
def interface_type(role: Role) -> Callable[[T], T]:
    """Declare a class as an interface of the schema, with the default role for its fields."""
    return lambda cls: strawberry.interface(_with_default(cls, role))


def _with_default(cls: T, role: Role) -> T:
    _defaults[cls] = role
    return cls


def permissions(schema: strawberry.Schema) -> Mapping[tuple[str, str], Role]:
    """Return the required role by type and field name; fields that declare no role are missing."""
    return _table(schema._schema)  # strawberry has no public name for the schema it builds


def undeclared_fields(schema: strawberry.Schema) -> list[str]:
    """List the fields that declare no role, as `Type.field`; a complete schema has none."""
    table = permissions(schema)
    return [f"{t.name}.{name}" for t in _types(schema._schema) for name in t.fields if (t.name, name) not in table]


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
        if (role := _declared_role(type_, field.extensions)) is not None
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


def _declared_role(type_: GraphQLObjectType | GraphQLInterfaceType, extensions: Mapping[str, Any]) -> Role | None:
    field = extensions.get("strawberry-definition")
    if not isinstance(field, StrawberryField):
        return None
    metadata: Mapping[Any, Any] = field.metadata
    own = metadata.get(_KEY)
    if isinstance(own, Role):
        return own
    definition: StrawberryObjectDefinition = type_.extensions["strawberry-definition"]
    return _defaults.get(_defining_class(definition.origin, field))


def _defining_class(cls: type, field: StrawberryField) -> type:
    """The type itself, or the base class that it inherits a field from."""
    for base in reversed(cls.__mro__):
        definition = base.__dict__.get("__strawberry_definition__")
        if definition is not None and (field.origin is base or any(f is field for f in definition.fields)):
            return base
    return cls
