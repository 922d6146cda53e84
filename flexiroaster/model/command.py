"""Commands: requests to stop, pause, resume, retry or roll back an execution, and the states that allow them.

A command is a row, so any process can store one and it survives a crash. The driver of the execution applies it. An
execution without a driver becomes claimable, and the worker that claims it applies the command.
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
    """The commands for an execution."""

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
"""Command -> the execution states that allow it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A stored command. `arguments` is JSON.

    A pause can have `mode` and `deadline` (ISO 8601), a retry `slot` and `skip`, a resume `skip`, any command `reason`.
    """

    id: int
    execution_id: str
    kind: CommandKind
    arguments: dict[str, Any] = field(default_factory=dict)
    requested_by: str = ""

    @property
    def reason(self) -> str:
        """The reason the requester gave, followed by the requester's name; a default text if no reason was given."""
        reason = self.arguments.get("reason") or f"{self.kind} requested"
        return f"{reason} by {self.requested_by}" if self.requested_by else str(reason)

    @property
    def deadline(self) -> datetime | None:
        """When a pause becomes a stop unless the execution is resumed before."""
        deadline = self.arguments.get("deadline")
        return None if deadline is None else datetime.fromisoformat(deadline)

    @property
    def slot(self) -> int | None:
        """The concurrency slot of the pipeline that was taken for a retry."""
        return self.arguments.get("slot")

    @property
    def skip(self) -> tuple[str, ...]:
        """Failed stages to skip rather than run again."""
        return tuple(self.arguments.get("skip") or ())

    @property
    def restarts_clock(self) -> bool:
        """Whether the command restarts the time limit of the whole execution."""
        return self.kind in {CommandKind.RESUME, CommandKind.RETRY}


def check_command(kind: CommandKind, status: ExecutionStatus) -> None:
    """Raise NotAllowedError, with the state and the commands it allows, if the state does not allow the command."""
    if status in ALLOWED[kind]:
        return
    allowed = ", ".join(k.value for k in CommandKind if status in ALLOWED[k]) or "nothing"
    raise NotAllowedError(
        f"Cannot {kind} execution with status: {status}; allowed: {allowed}", status=status, command=kind
    )
