"""Expected errors, as members of the unions that mutations answer with. Each implements `Error`.

The service raises; `HANDLERS` turn what it raises into these types where the field's union has them. What no union has
goes to the top level of the response, with its code in `extensions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import strawberry

from flexiroaster import errors
from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require
from graphql_api.schema.inputs import client_path
from graphql_api.schema.scalars import JSON

if TYPE_CHECKING:
    from strawberry.types.field import StrawberryField

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


@fields_require(Role.VIEWER)
@strawberry.interface
class Error:
    """Something expected that went wrong."""

    code: str = strawberry.field(description="Stable and machine-readable, such as `not_found`.")
    message: str = strawberry.field(description="For people: what is wrong, and what would be right.")
    path: list[str] = strawberry.field(description="Which part of the input it is about; empty: the whole of it.")


@fields_require(Role.VIEWER)
@strawberry.type
class NotFoundError(Error):
    """The named thing does not exist."""

    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class ConflictError(Error):
    """The request contradicts what is stored: a duplicate run, a stale revision, a key used for something else."""

    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class NotAllowedError(Error):
    """The move is not allowed in the present state; the message says which moves are."""

    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class BlockedError(Error):
    """The gate refuses a run whose risk is high; `details` say how high, and why. It can be forced with a reason."""

    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class InputError(Error):
    """An argument does not hold."""

    details: JSON


@fields_require(Role.VIEWER)
@strawberry.type
class DefinitionProblem:
    """One thing wrong with a definition."""

    path: str = strawberry.field(description="Where in the definition, such as `stages[2].config.by`.")
    message: str
    code: str


@fields_require(Role.VIEWER)
@strawberry.type
class DefinitionError(Error):
    """A definition, or the variables for one, do not hold: everything that was found, not the first."""

    problems: list[DefinitionProblem]


class _Handler:
    """Turns one kind of error that the service raises into the type that stands for it."""

    def __init__(self, raised: type[errors.FlexiRoasterError], answered: type[Error]) -> None:
        self.exception_type = raised
        self.error_type = answered

    def handle(self, exception: errors.FlexiRoasterError, *, field: StrawberryField, info: strawberry.Info) -> Error:  # noqa: ARG002 - strawberry passes them
        return self.error_type(**_fields(exception))


def problems_of(problems: Iterable[errors.Problem]) -> list[DefinitionProblem]:
    """The problems of a definition, their paths in the schema's spelling."""
    return [DefinitionProblem(path=client_path(p.path), message=p.message, code=p.code) for p in problems]


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
