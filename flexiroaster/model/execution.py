"""The states of executions and stages, and the one table of moves between them.

A terminal state is final: nothing that happens leads out of it. Two moves lead out because a person asks for them by
name: `retry` takes a failed or cancelled execution back to running, `rollback` undoes what an execution did.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

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
    """The states of one stage within an execution; `waiting` is the time before the next attempt."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"


class Goal(StrEnum):
    """What the driver of an execution is after: to run its stages, or to undo what they did."""

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
"""From each state, the states it may move to."""

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
"""From each state of a stage, the states it may move to. Back to pending: interrupted, or asked for by `retry` or
`resume`. From failed to skipped: a person has decided to go on without it."""

STAGE_ENDED = frozenset({_S.COMPLETED, _S.FAILED, _S.SKIPPED, _S.CANCELLED, _S.ROLLED_BACK})


def check_move(current: ExecutionStatus, target: ExecutionStatus) -> None:
    """Raise `NotAllowedError`, naming the state and what is allowed from it, unless the table has the move."""
    if target not in MOVES[current]:
        allowed = ", ".join(sorted(MOVES[current])) or "nothing, it is final"
        raise NotAllowedError(
            f"An execution that is {current} cannot become {target}; allowed: {allowed}",
            current=current,
            target=target,
        )
