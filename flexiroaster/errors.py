"""Every error FlexiRoaster raises on purpose, each with a stable `code`.

FlexiRoasterError
├── SettingsError       a variable of the environment is malformed
├── DefinitionError     a pipeline definition has problems (all of them, each with its path)
├── InputError          an argument of a request does not hold (a cursor, a limit, a date)
├── NotFoundError       the named thing does not exist
├── ConflictError       the request contradicts what is stored (a duplicate, a stale revision)
├── NotAllowedError     the move is not allowed in the present state
├── BlockedError        the gate refuses a run whose risk is high
├── UnauthenticatedError  who asks did not say, or could not show, who they are
├── StoreError          the database is of a version, or in a state, we cannot serve
├── LeaseLostError      somebody else drives this execution now
└── StageError          a stage attempt failed; `error_class` says what kind of failure it is
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "BlockedError",
    "ConflictError",
    "DefinitionError",
    "ErrorClass",
    "FlexiRoasterError",
    "InputError",
    "LeaseLostError",
    "NotAllowedError",
    "NotFoundError",
    "Problem",
    "SettingsError",
    "StageError",
    "StoreError",
    "UnauthenticatedError",
]


LONGEST_MESSAGE = 1000
"""The most characters of one problem's message."""


class ErrorClass(StrEnum):
    """What kind of failure a stage attempt ended in: it decides whether another attempt is worth it."""

    TRANSIENT = "transient"  # the outside world was briefly unavailable
    TIMEOUT = "timeout"  # the attempt did not end in time
    CRASH = "crash"  # the process died
    RESOURCE = "resource"  # memory or disk ran out
    DATA = "data"  # the data is not what the stage needs
    CODE = "code"  # the code or the expression is wrong
    CONFIGURATION = "configuration"  # the stage asks for what is not there or not permitted
    CANCELLED = "cancelled"  # somebody stopped it
    UNKNOWN = "unknown"  # nothing says that a repetition would be in vain


class FlexiRoasterError(Exception):
    """The root: `code` is stable and machine-readable, `message` is for people, `details` is JSON."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Any) -> None:  # noqa: ANN401 - details are any JSON value
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class SettingsError(FlexiRoasterError):
    """A variable of the environment is malformed; the message names it."""

    code = "settings.invalid"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a definition: where (`stages[2].config.by`) and what, in one sentence."""

    path: str
    message: str
    code: str = "invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DefinitionError(FlexiRoasterError):
    """A pipeline definition does not hold; `problems` lists everything found, in the order of the definition."""

    code = "definition.invalid"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(map(_bounded, problems))
        super().__init__(
            "; ".join(map(str, self.problems)),
            problems=[{"path": p.path, "message": p.message, "code": p.code} for p in self.problems],
        )


def _bounded(problem: Problem) -> Problem:
    """The problem, its message cut where it quotes what is out of proportion."""
    if len(problem.message) <= LONGEST_MESSAGE:
        return problem
    return replace(problem, message=f"{problem.message[:LONGEST_MESSAGE]}...")


class InputError(FlexiRoasterError):
    """An argument of a request does not hold; the message names it, `details["argument"]` too where it is one."""

    code = "input.invalid"


class NotFoundError(FlexiRoasterError):
    """The named thing does not exist."""

    code = "not_found"


class ConflictError(FlexiRoasterError):
    """The request contradicts what is stored."""

    code = "conflict"


class NotAllowedError(FlexiRoasterError):
    """The move is not allowed in the present state; the message says which moves are."""

    code = "not_allowed"


class BlockedError(FlexiRoasterError):
    """The gate refuses a run whose risk is high; `details` say how high, and why. It may be forced with a reason."""

    code = "blocked"


class UnauthenticatedError(FlexiRoasterError):
    """There is no token, or one that is not in force; the message does not say which."""

    code = "unauthenticated"


class StoreError(FlexiRoasterError):
    """The database cannot be served: unknown schema version, unusable URL, no connection."""

    code = "store"


class LeaseLostError(FlexiRoasterError):
    """A write was refused because another driver has taken the execution over."""

    code = "lease_lost"


class StageError(FlexiRoasterError):
    """A stage attempt failed in a way its operator understands.

    `error_class` says what kind of failure it is; whether it is repeated follows from that and from the
    stage's `retry_on`. `retry_after` (seconds) is the least delay the other side asked for, if it did.
    """

    code = "stage.failed"

    def __init__(
        self,
        message: str,
        error_class: ErrorClass = ErrorClass.UNKNOWN,
        *,
        retry_after: float | None = None,
        **details: Any,  # noqa: ANN401 - details are any JSON value
    ) -> None:
        super().__init__(message, **details)
        self.error_class = error_class
        self.retry_after = retry_after
