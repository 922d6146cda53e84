"""The states of executions and stages, and the transition tables between them.

No event leads out of a terminal state, only two commands do: `retry` takes a failed or cancelled execution back to
running, and `rollback` undoes the effects of an execution.
"""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from flexiroaster.errors import NotAllowedError

__all__ = [
    "LIVE",
    "MOVES",
    "STAGE_ENDED",
    "STAGE_MOVES",
    "TERMINAL",
    "ExecutionStatus",
    "Goal",
    "StageStatus",
    "check_move",
    "valid_traceparent",
]


class ExecutionStatus(StrEnum):
    """The seven states of an execution."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


class StageStatus(StrEnum):
    """The states of one stage of an execution; `waiting` means waiting for the next attempt."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"


class Goal(StrEnum):
    """The goal of an execution's driver: to run the stages, or to undo their effects."""

    RUN = "run"
    ROLLBACK = "rollback"


_E = ExecutionStatus
MOVES: MappingProxyType[ExecutionStatus, frozenset[ExecutionStatus]] = MappingProxyType(
    {
        _E.PENDING: frozenset({_E.RUNNING, _E.FAILED, _E.CANCELLED}),
        _E.RUNNING: frozenset({_E.PAUSED, _E.COMPLETED, _E.FAILED, _E.CANCELLED}),
        _E.PAUSED: frozenset({_E.RUNNING, _E.COMPLETED, _E.FAILED, _E.CANCELLED, _E.ROLLED_BACK}),
        _E.COMPLETED: frozenset({_E.ROLLED_BACK, _E.FAILED}),
        _E.FAILED: frozenset({_E.RUNNING, _E.ROLLED_BACK}),
        _E.ROLLED_BACK: frozenset(),
        _E.CANCELLED: frozenset({_E.RUNNING, _E.ROLLED_BACK, _E.FAILED}),
    }
)
"""State -> the states it can change to."""

LIVE = frozenset({_E.PENDING, _E.RUNNING, _E.PAUSED})
TERMINAL = frozenset(ExecutionStatus) - LIVE

_S = StageStatus
STAGE_MOVES: MappingProxyType[StageStatus, frozenset[StageStatus]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.SKIPPED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.COMPLETED, _S.WAITING, _S.FAILED, _S.CANCELLED, _S.PENDING}),
        _S.WAITING: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED}),
        _S.COMPLETED: frozenset({_S.ROLLED_BACK}),
        _S.FAILED: frozenset({_S.PENDING, _S.ROLLED_BACK, _S.SKIPPED}),
        _S.SKIPPED: frozenset({_S.PENDING}),
        _S.CANCELLED: frozenset({_S.PENDING, _S.ROLLED_BACK}),
        _S.ROLLED_BACK: frozenset(),
    }
)
"""Stage state -> the states it can change to. A stage returns to pending when it is interrupted, or by `retry` or
`resume`. A failed stage becomes skipped when a user decides to continue without it."""

STAGE_ENDED = frozenset({_S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED, _S.ROLLED_BACK})


def check_move(current: ExecutionStatus, target: ExecutionStatus) -> None:
    """Raise NotAllowedError, with the state and its allowed targets, if the table does not have the transition."""
    if target not in MOVES[current]:
        allowed = ", ".join(sorted(MOVES[current])) or "nothing, the state is terminal"
        raise NotAllowedError(
            f"An execution that is {current} cannot become {target}; allowed: {allowed}",
            current=current,
            target=target,
        )


# --- the W3C header `traceparent`: the trace and the parent span of a request -------------------------------------

_PARTS: Final = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_VERSION_0 = re.compile(rf"00-{_PARTS}")
_LATER_VERSION = re.compile(rf"((?!ff|00)[0-9a-f]{{2}}-{_PARTS})(-.*)?")


def valid_traceparent(header: str | None) -> str | None:
    """Validate the header and drop the fields of later versions; None for a header that the standard says to ignore."""
    text = (header or "").strip(" \t")
    if _VERSION_0.fullmatch(text):
        return text
    later = _LATER_VERSION.fullmatch(text)
    return later[1] if later else None
