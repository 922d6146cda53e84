"""Query cost: limits on the size of an operation, measured in one walk that visits every fragment once.

Depth, fields, aliases and repeated response names count with fragments expanded. The cost estimates how many values an
operation may produce: a field costs 1, and a list multiplies the cost below it by `first`, `last` or the default page
size. The walk is linear in the document, because a fragment's extent is the same wherever it is spread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_list_type,
)

__all__ = ["MAX_TEXT", "MAX_TOKENS", "find_exceeded_limit"]

LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
"""Error code of an operation that is too large."""

MAX_TEXT = 100_000
"""Maximum number of characters in a document."""

MAX_TOKENS = 2_000
"""Maximum number of tokens in a document, including comments."""

PAGE_SIZE = 50
"""Assumed number of items in a page if neither the operation nor the schema sets it."""

ALLOWED: Mapping[str, int] = {
    "depth": 10,
    "cost": 20_000,
    "fields": 500,
    "aliases": 50,
    "repeated fields": 5_000,
    "directives": 30,
    "fragments": 50,
    "operations": 10,
    "variables": 50,
    "introspection depth": 20,
    "introspection lists": 2,
    "nesting": 100,
}
"""The limits of a document. `fields` and `aliases` count every use of a fragment. `repeated fields` is the number of
field comparisons that validation needs for repeated response names; it grows with the square of the repetitions."""

_LIST_SIZE = 10  # assumed number of items in a list without pages
_TYPES, _MEMBERS = 10, 3  # assumed number of items in the lists of __schema, and in the lists of a type
_ROOT_COST = 10  # a root field needs its own database read
_SCHEMA_COST = 2_000  # __schema leads to the whole schema: a client needs it once at its start, not many times at once
_PAGING = ("first", "last")
_CYCLIC = frozenset({"fields", "inputFields", "interfaces", "possibleTypes"})  # lists of __Type that lead to __Type


def find_exceeded_limit(
    schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any]
) -> list[GraphQLError]:
    """Return the first limit that a document exceeds with these variables, as an error; empty if it exceeds none."""
    try:
        _Walk(schema, document, variables).check()
    except _ExceededError as error:
        return [error]
    return []


class _ExceededError(GraphQLError):
    def __init__(self, limit: str) -> None:
        allowed = ALLOWED.get(limit)
        message = f"The operation exceeds the limit of {limit}" + (f": {allowed}" if allowed else "")
        super().__init__(message, extensions={"code": LIMIT_EXCEEDED, "limit": limit, "allowed": allowed})


@dataclass(slots=True)
class _Extent:
    """The size of a selection set. `paged` is the cost below its lists, for one item of each."""

    cost: int = 0
    paged: int = 0
    depth: int = 0
    fields: int = 0
    aliases: int = 0
    repeats: int = 0
    lists: int = 0
    names: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)  # by response name: its fields, including those below them

    def add(self, other: _Extent) -> None:
        """Add the extent of a fragment."""
        self.repeats += sum(size * self.names[name] for name, size in other.sizes.items())
        self.names.update(other.names)
        self.sizes.update(other.sizes)
        self.cost += other.cost
        self.paged += other.paged
        self.depth = max(self.depth, other.depth)
        self.lists = max(self.lists, other.lists)
        self._count(other)

    def add_field(self, name: str, below: _Extent) -> None:
        """Count a field and everything below it; the caller adds its cost, depth and lists."""
        self.repeats += self.names[name] * (1 + below.fields)
        self.names[name] += 1
        self.sizes[name] += 1 + below.fields
        self.fields += 1
        self._count(below)

    def _count(self, other: _Extent) -> None:
        self.fields += other.fields
        self.aliases += other.aliases
        self.repeats += other.repeats

    def check(self) -> None:
        """Raise _ExceededError if a limit is exceeded; depth and cost are checked for whole operations."""
        _check("fields", self.fields)
        _check("aliases", self.aliases)
        _check("repeated fields", self.repeats)
        _check("introspection lists", self.lists)
        _check("introspection depth", self.depth)


def _check(limit: str, value: int) -> None:
    if value > ALLOWED[limit]:
        raise _ExceededError(limit)


class _Walk:
    """The walk over one document; it measures every fragment once."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self.schema = schema
        self.operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
        fragments = [d for d in document.definitions if isinstance(d, FragmentDefinitionNode)]
        _check("fragments", len(fragments))
        _check("operations", len(self.operations))
        self.fragments = {fragment.name.value: fragment for fragment in fragments}
        self.given = variables
        self.variables: dict[str, Any] = {}
        self.measured: dict[str, _Extent | None] = {}
        self.directives = 0
        self.nesting = 0

    def check(self) -> None:
        for name in self.fragments:  # unused fragments count too, because other validation rules visit them
            self._fragment(name)
        for operation in self.operations:
            self._operation(operation)

    def _operation(self, node: OperationDefinitionNode) -> None:
        definitions = node.variable_definitions or ()
        _check("variables", len(definitions))
        self._count_directives(node.directives)
        defaults = {d.variable.name.value: d.default_value for d in definitions}
        sizes = {name: self.given.get(name, _integer(default)) for name, default in defaults.items()}
        if sizes != self.variables:
            self.variables, self.measured = sizes, {}
        root = self.schema.get_root_type(node.operation)
        extent = self._set(node.selection_set, root)
        _check("depth", extent.depth)
        _check("cost", extent.cost + extent.paged * _LIST_SIZE + len(extent.names) * _ROOT_COST)

    def _set(self, node: SelectionSetNode | None, parent: GraphQLCompositeType | None) -> _Extent:
        extent = _Extent()
        self.nesting += 1
        _check("nesting", self.nesting)
        for selection in node.selections if node else ():
            self._count_directives(selection.directives)
            if isinstance(selection, FieldNode):
                self._field(selection, parent, extent)
            elif isinstance(selection, FragmentSpreadNode):
                extent.add(self._fragment(selection.name.value))
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                extent.add(
                    self._set(selection.selection_set, self._type(condition.name.value) if condition else parent)
                )
            extent.check()
        self.nesting -= 1
        return extent

    def _fragment(self, name: str) -> _Extent:
        node = self.fragments.get(name)
        if node is None:
            return _Extent()  # another rule reports the undefined fragment
        if name not in self.measured:
            self.measured[name] = None
            self._count_directives(node.directives)
            self.measured[name] = self._set(node.selection_set, self._type(node.type_condition.name.value))
        extent = self.measured[name]
        if extent is None:
            raise _ExceededError("fragments: one spreads itself")
        return extent

    def _field(self, node: FieldNode, parent: GraphQLCompositeType | None, extent: _Extent) -> None:
        name = node.name.value
        definition = self.schema.get_field(parent, name) if parent else None
        named = get_named_type(definition.type) if definition else None
        below = self._set(node.selection_set, named if is_composite_type(named) else None)
        if name in {"__schema", "__type"}:
            extent.depth = max(extent.depth, 1)
        else:
            extent.depth = max(extent.depth, 1 + below.depth)
            if parent is None or not parent.name.startswith("__"):
                _check("depth", extent.depth)
        extent.aliases += node.alias is not None
        extent.add_field(node.alias.value if node.alias else name, below)
        cyclic = name in _CYCLIC and parent is not None and parent.name == "__Type"
        extent.lists = max(extent.lists, below.lists + cyclic)
        self._price(node, definition, parent, below, extent)

    def _price(
        self,
        node: FieldNode,
        definition: GraphQLField | None,
        parent: GraphQLCompositeType | None,
        below: _Extent,
        extent: _Extent,
    ) -> None:
        """Add a field's cost, or add it to `paged` if only the parent knows the number of its items."""
        extent.cost += _SCHEMA_COST if node.name.value == "__schema" else 0
        size = self._page_size(node, definition) if definition else None
        if definition is None or not is_list_type(get_nullable_type(definition.type)):
            extent.cost += 1 + below.cost + below.paged * (_LIST_SIZE if size is None else size)
            return
        item = 1 + below.cost + below.paged * _LIST_SIZE
        if size is not None:
            extent.cost += size * item
        elif parent is not None and parent.name.startswith("__"):
            extent.cost += item * (_TYPES if parent.name == "__Schema" else _MEMBERS)
        else:
            extent.paged += item

    def _page_size(self, node: FieldNode, definition: GraphQLField) -> int | None:
        """Number of items that a field requests; None if it has no pages."""
        names = [name for name in _PAGING if name in definition.args]
        if not names:
            return None
        given = {argument.name.value: self._value(argument.value) for argument in node.arguments or ()}
        requested = [given[name] for name in names if isinstance(given.get(name), int)]
        defaults = [d for name in names if isinstance(d := definition.args[name].default_value, int)]
        return max(1, *(requested or defaults or [PAGE_SIZE]))

    def _value(self, node: ValueNode) -> Any:  # noqa: ANN401 - a variable may have any JSON value
        return self.variables.get(node.name.value) if isinstance(node, VariableNode) else _integer(node)

    def _type(self, name: str) -> GraphQLCompositeType | None:
        type_ = self.schema.get_type(name)
        return type_ if is_composite_type(type_) else None

    def _count_directives(self, nodes: Iterable[object] | None) -> None:
        self.directives += sum(1 for _ in nodes or ())
        _check("directives", self.directives)


def _integer(node: ValueNode | None) -> int | None:
    """The value of an integer literal that fits GraphQL's Int, else None."""
    if not isinstance(node, IntValueNode) or len(node.value) > len("-2147483648"):
        return None
    return int(node.value)
