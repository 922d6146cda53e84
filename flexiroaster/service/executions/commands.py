"""Commands to an execution: stop, pause, resume, retry and roll back, from any process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from flexiroaster.errors import InputError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.installation import Installation
from flexiroaster.store import commands, executions

__all__ = ["pause", "request", "resume", "retry", "rollback", "stop"]

MAX_PAUSE = timedelta(days=3650)


def stop(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Stop an execution: its stages are asked to end, and killed after the grace period.

    A paused execution, a queued one and one that waits for a retry can be stopped too. Raises NotFoundError,
    NotAllowedError (it has ended).
    """
    request(installation, execution_id, CommandKind.STOP, {"reason": reason}, requested_by)


def pause(
    installation: Installation,
    execution_id: str,
    reason: str = "",
    *,
    interrupt: bool = False,
    deadline: timedelta | None = None,
    requested_by: str = "",
) -> None:
    """Pause an execution: start no further stage until `resume`.

    Running stages may finish; with `interrupt` they are stopped and start again after the resume. A pause is not a
    failure and survives restarts. If the execution is still paused after `deadline` (counted from now), it is stopped.
    The deadline also survives restarts, and takes effect as soon as any process claims work.

    Raises NotFoundError, NotAllowedError (it is not running), InputError (the deadline is not in the future, or more
    than MAX_PAUSE away).
    """
    arguments = {"reason": reason, "mode": "interrupt" if interrupt else "drain"}
    if deadline is not None:
        if not timedelta(0) < deadline <= MAX_PAUSE:
            message = f"deadline: must be in the future, at most {MAX_PAUSE.days} days away"
            raise InputError(message, argument="deadline")
        arguments["deadline"] = (utc_now() + deadline).isoformat()
    request(installation, execution_id, CommandKind.PAUSE, arguments, requested_by)


def resume(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Resume a paused execution. Raises NotFoundError, NotAllowedError (it is not paused)."""
    request(installation, execution_id, CommandKind.RESUME, {"reason": reason}, requested_by)


def retry(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Run the failed, cancelled and skipped stages of an execution again; completed stages keep their results.

    Raises NotFoundError, NotAllowedError (it has neither failed nor been cancelled), ConflictError (the concurrency
    limit of its pipeline is reached).
    """
    request(installation, execution_id, CommandKind.RETRY, {"reason": reason}, requested_by)


def rollback(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Undo the external effects of the stages, in reverse order of their start.

    The execution becomes `rolled_back` if everything is undone. Otherwise it becomes `failed`, and its error lists
    what to undo by hand. Raises NotFoundError, NotAllowedError (it is live and not paused, or already rolled back).
    """
    request(installation, execution_id, CommandKind.ROLLBACK, {"reason": reason}, requested_by)


def request(
    installation: Installation,
    execution_id: str,
    kind: CommandKind,
    arguments: dict[str, Any],
    requested_by: str,
    in_transaction: Callable[[Connection], None] | None = None,
) -> ExecutionStatus:
    """Store a command and notify the process that drives the execution.

    Returns the status that the execution had when the command was stored. `in_transaction` writes related rows with it.
    Raises NotFoundError, NotAllowedError, ConflictError, StoreError.
    """
    concurrency = None
    if kind is CommandKind.RETRY:
        row = executions.execution(installation.database, execution_id)
        concurrency = installation.definition(row.pipeline_id, row.revision).concurrency
    status = commands.request(
        installation.database,
        execution_id,
        kind,
        arguments,
        requested_by=requested_by,
        concurrency=concurrency,
        write_related=in_transaction,
    )
    installation.notify_command(execution_id)
    return status
