"""What a command does to an execution's state."""

from __future__ import annotations

from datetime import datetime

from flexiroaster.engine.executor import Execution
from flexiroaster.model.command import ALLOWED, Command, CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, Goal

__all__ = ["obey"]


def obey(execution: Execution, command: Command, at: datetime) -> bool:
    """Carry a command out; whether the running attempts are to be ended.

    A command that is not allowed in the present state any more is refused, with an event. A stop counts as handled
    when the execution has ended, so that it survives a crash before that.
    """
    if execution.status not in ALLOWED[command.kind] or execution.goal is Goal.ROLLBACK:
        message = f"Cannot {command.kind} execution with status: {execution.status}"
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
            execution.pause(reason, at, interrupt=interrupt)
            return interrupt
        case CommandKind.RESUME:
            execution.resume(reason, at)
        case CommandKind.RETRY:
            execution.retry_failed(reason, at)
        case CommandKind.ROLLBACK:
            running = execution.status is ExecutionStatus.PAUSED
            execution.begin_rollback(reason, at)
            return running
    return False
