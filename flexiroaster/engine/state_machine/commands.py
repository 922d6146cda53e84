"""Applies commands to the state of an execution."""

from __future__ import annotations

from datetime import datetime

from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.engine.state_machine.rollback import begin_rollback
from flexiroaster.model.command import ALLOWED, Command, CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus

__all__ = ["apply_command"]


def apply_command(execution: Execution, command: Command, at: datetime) -> bool:
    """Apply a command; return whether the running attempts must be ended.

    A command that the current state no longer allows is refused, with an event. A stop counts as handled once the
    execution has ended, so it survives a crash before that.
    """
    if command.slot is not None:  # taken when the command was stored; this driver may not know it
        execution.slot = command.slot
    if (message := _refusal(execution, command.kind)) is not None:
        execution.handled.append((command.id, message))
        execution.tell(EventType.COMMAND_REFUSED, message, at, Level.WARNING)
        return False
    reason = command.reason
    if command.kind is CommandKind.STOP:
        execution.stop_commands.append(command.id)
        execution.stop(reason, at)
        return True
    execution.handled.append((command.id, "done"))
    match command.kind:
        case CommandKind.PAUSE:
            interrupt = command.arguments.get("mode") == "interrupt"
            execution.pause(reason, at, interrupt=interrupt, deadline=command.deadline)
            return interrupt
        case CommandKind.RESUME:
            execution.resume(reason, at, command.skip)
        case CommandKind.RETRY:
            execution.retry_failed(reason, at, command.skip)
        case CommandKind.ROLLBACK:
            running = execution.status is ExecutionStatus.PAUSED
            begin_rollback(execution, reason, at)
            return running
    return False


def _refusal(execution: Execution, kind: CommandKind) -> str | None:
    """The reason why the current state does not allow the command, or None."""
    message = f"Cannot {kind} execution with status: {execution.status}"
    if execution.unreadable_reason is not None:
        return f"{message}; {execution.unreadable_reason}"
    if execution.status not in ALLOWED[kind] or execution.goal is Goal.ROLLBACK:
        return message
    if kind is CommandKind.RETRY:
        if any(run.status is StageStatus.ROLLED_BACK for run in execution.stages.values()):
            return f"{message}; some of its stages were undone"
        if execution.pipeline.concurrency is not None and execution.slot is None:
            return f"{message}; its pipeline is already running"
    return None
