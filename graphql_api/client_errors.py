"""Errors as clients see them, and the log entries of unexpected errors.

A FlexiRoaster error reaches the client with its message and its `code`. Any other error is a defect: the client gets
`Internal error` and an `errorId`; the log gets one line with that id and the traceback, in which every literal and
variable of the operation is masked.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from graphql import DocumentNode, FloatValueNode, GraphQLError, IntValueNode, StringValueNode, Visitor, visit

from flexiroaster.errors import FlexiRoasterError, StoreError

__all__ = ["client_values", "error_for_client", "log_internal_error"]

INTERNAL = "INTERNAL"
"""Error code of an unexpected error."""

BAD_USER_INPUT = "BAD_USER_INPUT"
"""Error code of invalid variables."""

EXECUTION_FAILED = "EXECUTION_FAILED"
"""Error code of an error that GraphQL itself finds during execution, such as an argument out of range."""

_log = logging.getLogger(__name__)


def error_for_client(error: GraphQLError, values_to_mask: Iterable[str] = ()) -> dict[str, Any]:
    """Return an error as the client may see it; log an unexpected one with these values masked."""
    cause = _cause(error)
    if cause is None:
        code = EXECUTION_FAILED if error.path else BAD_USER_INPUT
        return {**error.formatted, "extensions": {"code": code, **(error.extensions or {})}}
    location = {key: value for key, value in error.formatted.items() if key in {"locations", "path"}}
    if isinstance(cause, FlexiRoasterError) and not isinstance(cause, StoreError):
        return {"message": cause.message, **location, "extensions": {**cause.details, "code": cause.code}}
    path = ".".join(map(str, error.path or ()))
    return {**log_internal_error(cause, f"in {path}" if path else "", values_to_mask), **location}


def log_internal_error(cause: BaseException, where: str = "", values_to_mask: Iterable[str] = ()) -> dict[str, Any]:
    """Log an unexpected error once, and return the error to send to the client."""
    error_id = secrets.token_hex(8)
    _log.error(
        "Internal error %s %s\n%s", error_id, where, _traceback(cause, values_to_mask), extra={"error_id": error_id}
    )
    unavailable = isinstance(cause, StoreError)  # its message may reveal the database's address
    message = "The database cannot be reached" if unavailable else "Internal error"
    code = StoreError.code if unavailable else INTERNAL
    return {"message": message, "extensions": {"code": code, "errorId": error_id}}


def client_values(document: DocumentNode, variables: Mapping[str, Any] | None) -> set[str]:
    """Return the literals of a document and the values of its variables as text, which must not appear in the log."""
    literals = _Literals()
    visit(document, literals)
    return literals.found | set(_leaves(variables or {}))


class _Literals(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def enter(self, node: object, *_: object) -> None:
        if isinstance(node, StringValueNode | IntValueNode | FloatValueNode):
            self.found.add(node.value)


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in (*value, *value.values()):
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _cause(error: GraphQLError) -> Exception | None:
    """The exception that a resolver raised; None if the error is a GraphQL error itself."""
    original: Exception | None = error
    while isinstance(original, GraphQLError):
        original = original.original_error
    return original


def _traceback(error: BaseException, values_to_mask: Iterable[str]) -> str:
    """The traceback, causes first. Client input is masked in messages; source lines are unchanged."""
    words = {form for word in values_to_mask if word for form in (word, repr(word)[1:-1])}
    hide = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True)))) if words else None
    parts, seen = [], set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        text = hide.sub("***", str(current)) if hide else str(current)
        stack = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{stack}{type(current).__module__}.{type(current).__qualname__}: {text}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(reversed(parts))
