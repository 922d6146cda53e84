"""Stop, pause, resume, retry and roll back: from any process, whoever drives the execution."""

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
from flexiroaster.store import commands, queries

__all__ = ["pause", "request", "resume", "retry", "rollback", "stop"]

LONGEST_PAUSE = timedelta(days=3650)


def stop(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Stop an execution: its stages are asked to end and killed after the grace period; also while it is paused,
    queued or waits for a retry.

    Raises NotFoundError, NotAllowedError (it has ended).
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
    """Start no further stage until `resume`; running stages may finish, or with `interrupt` are ended and begin anew
    later. It is no failure, and it survives restarts. With a `deadline` from now it is stopped then, unless it is
    resumed before; that survives restarts as well, and happens as soon as any process claims work.

    Raises NotFoundError, NotAllowedError (it is not running), InputError (a deadline that lies behind or too far
    ahead).
    """
    arguments = {"reason": reason, "mode": "interrupt" if interrupt else "drain"}
    if deadline is not None:
        if not timedelta(0) < deadline <= LONGEST_PAUSE:
            message = f"deadline: must lie ahead, and by {LONGEST_PAUSE.days} days at most"
            raise InputError(message, argument="deadline")
        arguments["deadline"] = (utc_now() + deadline).isoformat()
    request(installation, execution_id, CommandKind.PAUSE, arguments, requested_by)


def resume(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Go on with a paused execution. Raises NotFoundError, NotAllowedError (it is not paused)."""
    request(installation, execution_id, CommandKind.RESUME, {"reason": reason}, requested_by)


def retry(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Run the failed, cancelled and skipped stages of an execution again; completed ones keep their results.

    Raises NotFoundError, NotAllowedError (it has neither failed nor been cancelled), ConflictError (its pipeline runs
    already as often as it may).
    """
    request(installation, execution_id, CommandKind.RETRY, {"reason": reason}, requested_by)


def rollback(installation: Installation, execution_id: str, reason: str = "", *, requested_by: str = "") -> None:
    """Undo what the stages did outside, in reverse order of their start. The execution is `rolled_back` when all is
    undone, else `failed` with what is left to do by hand.

    Raises NotFoundError, NotAllowedError (it is still live and not paused, or rolled back already).
    """
    request(installation, execution_id, CommandKind.ROLLBACK, {"reason": reason}, requested_by)


def request(
    installation: Installation,
    execution_id: str,
    kind: CommandKind,
    arguments: dict[str, Any],
    requested_by: str,
    beside: Callable[[Connection], None] | None = None,
) -> ExecutionStatus:
    """Store a command and have it carried out; the state it was asked for in. `beside` writes in the same transaction.

    Raises NotFoundError, NotAllowedError, ConflictError, StoreError.
    """
    concurrency = None
    if kind is CommandKind.RETRY:
        row = queries.execution(installation.database, execution_id)
        concurrency = installation.definition(row.pipeline_id, row.revision).concurrency
    status = commands.request(
        installation.database,
        execution_id,
        kind,
        arguments,
        requested_by=requested_by,
        concurrency=concurrency,
        beside=beside,
    )
    installation.tell_of_command(execution_id)
    return status
