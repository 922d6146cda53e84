"""Commands: what people and programs ask of an execution, and in which state they may.

A command is a row. Whoever drives the execution carries it out; where nobody drives, it makes the execution claimable
and the next claim does. So it works from any process, and survives a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from flexiroaster.errors import NotAllowedError
from flexiroaster.model.execution import ExecutionStatus

__all__ = ["ALLOWED", "Command", "CommandKind", "check_command"]


class CommandKind(StrEnum):
    """What can be asked of an execution."""

    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    ROLLBACK = "rollback"


_E = ExecutionStatus
ALLOWED: MappingProxyType[CommandKind, frozenset[ExecutionStatus]] = MappingProxyType(
    {
        CommandKind.STOP: frozenset({_E.PENDING, _E.RUNNING, _E.PAUSED}),
        CommandKind.PAUSE: frozenset({_E.RUNNING}),
        CommandKind.RESUME: frozenset({_E.PAUSED}),
        CommandKind.RETRY: frozenset({_E.FAILED, _E.CANCELLED}),
        CommandKind.ROLLBACK: frozenset({_E.FAILED, _E.PAUSED, _E.COMPLETED, _E.CANCELLED}),
    }
)
"""For each command, the states of an execution in which it may be asked for."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as stored. `arguments` is JSON: `mode` and `deadline` (ISO 8601) of a pause, `slot` of a retry, `skip`
    of a retry and a resume, `reason` of any.
    """

    id: int
    execution_id: str
    kind: CommandKind
    arguments: dict[str, Any] = field(default_factory=dict)
    requested_by: str = ""

    @property
    def reason(self) -> str:
        """Why, in the words of whoever asked; at least who it was."""
        told = self.arguments.get("reason") or f"{self.kind} requested"
        return f"{told} by {self.requested_by}" if self.requested_by else str(told)

    @property
    def deadline(self) -> datetime | None:
        """When a pause becomes a stop, unless it is resumed before."""
        told = self.arguments.get("deadline")
        return None if told is None else datetime.fromisoformat(told)

    @property
    def slot(self) -> int | None:
        """The slot of its pipeline's concurrency that was taken for a retry."""
        return self.arguments.get("slot")

    @property
    def skip(self) -> tuple[str, ...]:
        """Failed stages that are to be skipped rather than run again."""
        return tuple(self.arguments.get("skip") or ())

    @property
    def restarts_clock(self) -> bool:
        """Whether the limit of the whole execution counts anew from here."""
        return self.kind in {CommandKind.RESUME, CommandKind.RETRY}


def check_command(kind: CommandKind, status: ExecutionStatus) -> None:
    """Raise NotAllowedError, naming the state and what is allowed in it, unless the command may be asked for."""
    if status in ALLOWED[kind]:
        return
    allowed = ", ".join(k.value for k in CommandKind if status in ALLOWED[k]) or "nothing"
    raise NotAllowedError(
        f"Cannot {kind} execution with status: {status}; allowed: {allowed}", status=status, command=kind
    )
