"""Documents that each use one field of a schema, and as little else as possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphql import (
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)

__all__ = ["Use", "uses"]


@dataclass(frozen=True)
class Use:
    """A document that uses `type.field`, and the fields on the way to it."""

    type: str
    field: str
    document: str
    way: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Place:
    """A position in a document: the text before and after it, and the variables so far."""

    head: str
    tail: str
    variables: tuple[str, ...]
    way: tuple[tuple[str, str], ...]


def uses(schema: GraphQLSchema) -> Iterator[Use]:
    """One use of each field of each reachable type, by a shortest path from each root."""
    roots = (
        (schema.query_type, "query"),
        (schema.mutation_type, "mutation"),
        (schema.subscription_type, "subscription"),
    )
    for root, keyword in roots:
        if root is not None:
            yield from _below(schema, root, keyword)


def _below(schema: GraphQLSchema, root: GraphQLObjectType, keyword: str) -> Iterator[Use]:
    seen: set[str] = {root.name}
    waiting: list[tuple[GraphQLNamedType, _Place]] = [(root, _Place("", "", (), ()))]
    while waiting:
        type_, place = waiting.pop(0)
        for branch, at in _branches(schema, type_, place):
            for name, field in branch.fields.items():
                arguments, variables = _arguments(name, field)
                way = (*at.way, (branch.name, name))
                head, tail = f"{at.head} {name}{arguments}", at.tail
                declared = (*at.variables, *variables)
                target = get_named_type(field.type)
                yield _use(keyword, branch, name, target, _Place(head, tail, declared, way))
                if not is_leaf_type(target) and target.name not in seen:
                    seen.add(target.name)
                    waiting.append((target, _Place(f"{head} {{", f"}} {tail}", declared, way)))


def _branches(
    schema: GraphQLSchema, type_: GraphQLNamedType, place: _Place
) -> Iterator[tuple[GraphQLObjectType | GraphQLInterfaceType, _Place]]:
    if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
        yield type_, place
    if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
        for member in schema.get_possible_types(type_):
            yield (
                member,
                _Place(f"{place.head} ... on {member.name} {{", f"}} {place.tail}", place.variables, place.way),
            )


def _arguments(name: str, field: GraphQLField) -> tuple[str, tuple[str, ...]]:
    """The required arguments, each a variable without a value, so that nothing is ever executed."""
    required = {given: argument for given, argument in field.args.items() if is_required_argument(argument)}
    if not required:
        return "", ()
    used = ", ".join(f"{given}: ${name}_{given}" for given in required)
    return f"({used})", tuple(f"${name}_{given}: {argument.type}" for given, argument in required.items())


def _use(
    keyword: str,
    type_: GraphQLObjectType | GraphQLInterfaceType,
    name: str,
    target: GraphQLNamedType,
    place: _Place,
) -> Use:
    selection = "" if is_leaf_type(target) else " { __typename }"
    variables = ", ".join(dict.fromkeys((*place.variables, "$never: Boolean!")))
    never = "... @include(if: $never) { __typename }"
    body = f"{place.head}{selection} {place.tail}"
    lone = keyword == "subscription"  # which has one field at its root
    body = body.replace("{", f"{{ {never}", 1) if lone else f"{body} {never}"
    return Use(type_.name, name, f"{keyword}({variables}) {{{body} }}", place.way)
