"""GraphQL documents: parsed, measured and validated once per role, then cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import strawberry
from graphql import (
    DefinitionNode,
    DocumentNode,
    GraphQLError,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    parse,
    print_ast,
    specified_rules,
    validate,
)
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from flexiroaster.model.viewer import Role
from flexiroaster.web.thread_pool import RefusedError
from graphql_api import query_cost
from graphql_api.permissions import FORBIDDEN, permission_rule

__all__ = ["Documents", "Operation"]

PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"

_MAX_CACHED = 256
_MAX_CACHED_LENGTH = 10_000  # characters; longer documents are rarely sent twice
_MAX_ERRORS = 10
_RULES = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)


class InvalidDocumentError(RefusedError):
    """A document that cannot be parsed, is not valid, or is too large; `status` is 403 if it is not permitted."""

    def __init__(self, errors: Sequence[GraphQLError], status: int = 400) -> None:
        super().__init__(errors[0].message, status=status, well_formed=True)
        self.errors = [dict(error.formatted) for error in errors]


@dataclass(frozen=True, slots=True)
class Operation:
    """An executable operation: a valid document and the selected operation in it."""

    document: DocumentNode
    node: OperationDefinitionNode

    @property
    def type(self) -> OperationType:
        """Query, mutation or subscription."""
        return self.node.operation

    @property
    def name(self) -> str | None:
        """The operation's name, if it has one."""
        return self.node.name.value if self.node.name else None


class Documents:
    """The document cache of a schema. Thread-safe. `debug` allows introspection for the role viewer."""

    def __init__(self, schema: strawberry.Schema, *, debug: bool = False) -> None:
        self._schema = schema._schema  # strawberry has no public name for the schema it builds
        self._debug = debug
        self._cached = lru_cache(maxsize=_MAX_CACHED)(self._validate)

    def operation(
        self, text: str, role: Role, variables: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Operation:
        """Return the requested operation. Raises RefusedError if it is malformed, too large or not permitted."""
        prepare = self._cached if len(text) <= _MAX_CACHED_LENGTH else self._validate
        document, cost_varies = prepare(text, role)
        if cost_varies and variables:
            _raise_if_any(query_cost.find_exceeded_limit(self._schema, document, variables))
        return Operation(document, _select_operation(document, name))

    def _validate(self, text: str, role: Role) -> tuple[DocumentNode, bool]:
        """Return a valid document, and whether its cost may depend on variables."""
        document = _parse(text)
        # first, because the specification's rules are not linear
        _raise_if_any(query_cost.find_exceeded_limit(self._schema, document, {}))
        introspection = self._debug or role.covers(Role.OPERATOR)
        rules = (*_RULES, permission_rule(role, introspection=introspection))
        _raise_if_any(validate(self._schema, document, rules, _MAX_ERRORS, hide_suggestions=not introspection))
        return document, any(map(_has_integers, document.definitions))


def _has_integers(node: DefinitionNode) -> bool:
    """Whether an operation has an integer variable, which may set a page size."""
    definitions = (node.variable_definitions or ()) if isinstance(node, OperationDefinitionNode) else ()
    return any("Int" in print_ast(definition.type) for definition in definitions)


def _parse(text: str) -> DocumentNode:
    try:
        return parse(
            text,
            max_tokens=query_cost.MAX_TOKENS,
            max_source_length=query_cost.MAX_TEXT,
            max_comments=query_cost.MAX_TOKENS,
        )
    except GraphQLSyntaxError as error:
        raise InvalidDocumentError([_with_code(error, PARSE_FAILED)]) from error


def _raise_if_any(errors: Sequence[GraphQLError]) -> None:
    if errors:
        coded = [_with_code(error, VALIDATION_FAILED) for error in errors]
        forbidden = any((error.extensions or {}).get("code") == FORBIDDEN for error in coded)
        raise InvalidDocumentError(coded, 403 if forbidden else 400)


def _with_code(error: GraphQLError, code: str) -> GraphQLError:
    error.extensions = {"code": code, **(error.extensions or {})}
    return error


def _select_operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    chosen = [o for o in operations if name is None or (o.name and o.name.value == name)]
    if len(chosen) == 1:
        return chosen[0]
    if name is None:  # a valid document has at least one operation, so here it has several
        problem = "operationName is required: the document has several operations"
    else:
        problem = f"The document has no operation named {name[:100]!r}"
    raise RefusedError(problem, well_formed=True)
