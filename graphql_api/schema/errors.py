"""Expected errors: the error types in the unions that mutations return. Each implements `Error`.

`HANDLERS` convert an exception of the service into one of these types if the field's union contains it. Other errors
appear at the top level of the response, with their code in `extensions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import strawberry
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from flexiroaster import errors
from flexiroaster.model.viewer import Role
from graphql_api.permissions import interface_type, object_type
from graphql_api.schema.scalars import JSON

__all__ = [
    "HANDLERS",
    "BlockedError",
    "ConflictError",
    "DefinitionError",
    "DefinitionProblem",
    "Error",
    "InputError",
    "NotAllowedError",
    "NotFoundError",
    "problems_of",
]

_FIELD = re.compile(r"^(stages\[\d+\]\.)?([a-z_]+)(?=$|[.\[])")


@interface_type(Role.VIEWER)
class Error:
    """An expected error, such as invalid input or a conflict."""

    code: str = strawberry.field(description="Stable, machine-readable error code, such as `not_found`.")
    message: str = strawberry.field(description="Human-readable message: what is wrong and how to correct it.")
    path: list[str] = strawberry.field(description="Path of the invalid part of the input; empty for the whole input.")


@object_type(Role.VIEWER)
class NotFoundError(Error):
    """The requested object does not exist."""

    details: JSON


@object_type(Role.VIEWER)
class ConflictError(Error):
    """The request conflicts with stored data: a duplicate run, a stale revision, or a key used for another request."""

    details: JSON


@object_type(Role.VIEWER)
class NotAllowedError(Error):
    """The current state does not allow this operation; the message lists the operations that it allows."""

    details: JSON


@object_type(Role.VIEWER)
class BlockedError(Error):
    """The gate blocks a run with a high risk; `details` give the risk and why. To start anyway, use `force`."""

    details: JSON


@object_type(Role.VIEWER)
class InputError(Error):
    """An argument is invalid."""

    details: JSON


@object_type(Role.VIEWER)
class DefinitionProblem:
    """One problem in a pipeline definition."""

    path: str = strawberry.field(description="Path in the definition, such as `stages[2].config.by`.")
    message: str
    code: str


@object_type(Role.VIEWER)
class DefinitionError(Error):
    """A pipeline definition or its variables are invalid; `problems` lists all problems, not only the first."""

    problems: list[DefinitionProblem]


@dataclass(frozen=True, slots=True)
class _Handler:
    """Converts one kind of service exception into its GraphQL error type."""

    exception_type: type[errors.FlexiRoasterError]
    error_type: type[Error]

    def handle(self, exception: errors.FlexiRoasterError, *, field: StrawberryField, info: strawberry.Info) -> Error:  # noqa: ARG002 - strawberry passes them
        return self.error_type(**_fields(exception))


def problems_of(problems: Iterable[errors.Problem]) -> list[DefinitionProblem]:
    """Convert the problems of a definition, with their paths in the schema's spelling."""
    return [DefinitionProblem(path=_client_path(p.path), message=p.message, code=p.code) for p in problems]


def _client_path(path: str) -> str:
    """Convert a model path, such as `stages[0].max_retries`, to the schema's spelling; configs keep their names."""
    return _FIELD.sub(lambda match: f"{match[1] or ''}{to_camel_case(match[2])}", path)


def _fields(error: errors.FlexiRoasterError) -> dict[str, Any]:
    argument = error.details.get("argument")
    path = ["input", str(argument)] if argument else ["input"]
    common = {"code": error.code, "message": error.message, "path": path}
    if isinstance(error, errors.DefinitionError):
        return common | {"problems": problems_of(error.problems)}
    return common | {"details": JSON(error.details)}


HANDLERS = (
    _Handler(errors.NotFoundError, NotFoundError),
    _Handler(errors.ConflictError, ConflictError),
    _Handler(errors.NotAllowedError, NotAllowedError),
    _Handler(errors.BlockedError, BlockedError),
    _Handler(errors.InputError, InputError),
    _Handler(errors.DefinitionError, DefinitionError),
)
"""For `strawberry.Schema(exception_handlers=...)`."""
