"""The exception hierarchy of FlexiRoaster below `FlexiRoasterError`. Each class has a stable `code`."""

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
    "code_error",
    "configuration_error",
    "data_error",
    "first_line",
]


MAX_MESSAGE_LENGTH = 1000
"""Maximum length of one problem's message, in characters; a message can quote a very long value."""


class ErrorClass(StrEnum):
    """Kind of failure of a stage attempt. It decides whether a retry can help."""

    TRANSIENT = "transient"  # an external system was briefly unavailable
    TIMEOUT = "timeout"  # the attempt exceeded its time limit
    CRASH = "crash"  # the process died
    RESOURCE = "resource"  # out of memory or disk space
    DATA = "data"  # the stage cannot process its input data
    CODE = "code"  # the code or the expression is wrong
    CONFIGURATION = "configuration"  # the stage needs something that is missing or not permitted
    CANCELLED = "cancelled"  # the attempt was stopped
    UNKNOWN = "unknown"  # unclassified, so a retry may help


class FlexiRoasterError(Exception):
    """Base class. `code` is stable and machine-readable, `message` is for people, `details` is JSON."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Any) -> None:  # noqa: ANN401 - details are any JSON value
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class SettingsError(FlexiRoasterError):
    """An environment variable is malformed; the message names it."""

    code = "settings.invalid"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a definition: its path (`stages[2].config.by`) and one sentence that describes it."""

    path: str
    message: str
    code: str = "invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DefinitionError(FlexiRoasterError):
    """A pipeline definition is invalid; `problems` lists every problem in the order of the definition."""

    code = "definition.invalid"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(
            replace(p, message=f"{p.message[:MAX_MESSAGE_LENGTH]}...") if len(p.message) > MAX_MESSAGE_LENGTH else p
            for p in problems
        )
        super().__init__(
            "; ".join(map(str, self.problems)),
            problems=[{"path": p.path, "message": p.message, "code": p.code} for p in self.problems],
        )


class InputError(FlexiRoasterError):
    """A request argument is invalid; the message names it, and `details["argument"]` too if there is a single one."""

    code = "input.invalid"


class NotFoundError(FlexiRoasterError):
    """The named object does not exist."""

    code = "not_found"


class ConflictError(FlexiRoasterError):
    """The request conflicts with stored data (a duplicate, a stale revision)."""

    code = "conflict"


class NotAllowedError(FlexiRoasterError):
    """The current state does not allow the transition; the message lists the allowed ones."""

    code = "not_allowed"


class BlockedError(FlexiRoasterError):
    """The risk gate refuses a high-risk run; `details` hold the risk and its factors. A forced start needs a reason."""

    code = "blocked"


class UnauthenticatedError(FlexiRoasterError):
    """The token is missing, unknown, expired or revoked; the message does not say which."""

    code = "unauthenticated"


class StoreError(FlexiRoasterError):
    """The database cannot be used: unknown schema version, unusable URL, no connection."""

    code = "store"


class LeaseLostError(FlexiRoasterError):
    """A write was refused because another driver has taken over the execution."""

    code = "lease_lost"


class StageError(FlexiRoasterError):
    """A stage attempt failed for a reason that its operator knows.

    `error_class` is the kind of failure; it and the stage's `retry_on` decide whether the attempt is retried.
    `retry_after` is the minimum delay in seconds that the remote side asked for, if it did.
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


def configuration_error(message: str, **details: Any) -> StageError:  # noqa: ANN401 - any JSON value
    """Build the error for a setting, permission or resource that the stage lacks; a retry cannot help."""
    return StageError(message, ErrorClass.CONFIGURATION, **details)


def data_error(message: str, **details: Any) -> StageError:  # noqa: ANN401 - any JSON value
    """Build the error for input data that the stage cannot process."""
    return StageError(message, ErrorClass.DATA, **details)


def code_error(message: str, **details: Any) -> StageError:  # noqa: ANN401 - any JSON value
    """Build the error for code or an expression that is wrong."""
    return StageError(message, ErrorClass.CODE, **details)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; below it, polars adds the query plan or advice about its own API."""
    return str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
