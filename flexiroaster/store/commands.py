"""Commands as rows: any process requests them, and the driver of the execution carries them out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Row, case, insert, select, update

from flexiroaster.errors import ConflictError, NotAllowedError, NotFoundError
from flexiroaster.model.command import Command, CommandKind, check_command
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store.database import Database
from flexiroaster.store.sql import TableReader, database_now, lock_pipeline
from flexiroaster.store.tables import commands, executions, stage_runs

__all__ = ["COMMANDS", "pending", "request"]

COMMANDS = TableReader(commands, Command, kind=CommandKind)

_AT = executions.c.claimable_at
_CLAIMABLE = case(
    (_AT.is_(None), database_now()),
    ((executions.c.lease_owner.is_(None)) & (database_now() < _AT), database_now()),
    else_=_AT,
)
"""When an execution with a command becomes claimable: now, unless it has a driver or is claimable already.

An execution that is paused until a deadline has no driver, and would otherwise be claimable only then.
"""


def request(
    database: Database,
    execution_id: str,
    kind: CommandKind,
    arguments: dict[str, Any],
    *,
    requested_by: str,
    concurrency: int | None = None,
    write_related: Callable[[Connection], None] | None = None,
) -> ExecutionStatus:
    """Store a command, make the execution claimable if it has no driver, and return its status before.

    `concurrency` is that of the pipeline: a retry needs a slot again. `write_related` writes related rows in the same
    transaction. Raises NotFoundError, NotAllowedError (the status does not allow the command, or a retry would follow a
    partial undo) and ConflictError (no free slot).
    """
    now = utc_now()
    with database.write() as connection:
        if kind is CommandKind.RETRY and concurrency is not None:
            lock_pipeline(connection, _pipeline_of(connection, execution_id))
        row = _lock(connection, execution_id)
        status = ExecutionStatus(row.status)
        check_command(kind, status)
        if kind is CommandKind.RESUME and row.queued:
            message = f"Cannot resume execution {execution_id}: it is queued; allowed: stop"
            raise NotAllowedError(message, status=status, command=kind)
        values: dict[str, Any] = {"claimable_at": _CLAIMABLE}
        if kind is CommandKind.RETRY:
            _check_nothing_undone(connection, execution_id, status)
            if concurrency is not None and row.slot is None:
                values["slot"] = _free_slot(connection, row.pipeline_id, concurrency)
                arguments = {**arguments, "slot": values["slot"]}  # for a driver that has loaded the execution already
        command = {"execution_id": execution_id, "kind": kind, "arguments": arguments, "requested_by": requested_by}
        connection.execute(insert(commands).values(**command, requested_at=now))
        connection.execute(update(executions).where(executions.c.id == execution_id).values(values))
        if write_related is not None:
            write_related(connection)
    return status


def pending(database: Database, execution_ids: Collection[str]) -> list[Command]:
    """Return the pending commands of these executions, oldest first."""
    if not execution_ids:
        return []
    statement = COMMANDS.select(commands.c.execution_id.in_(execution_ids), commands.c.handled_at.is_(None))
    with database.read() as connection:
        return COMMANDS.all(connection, statement.order_by(commands.c.id))


def _pipeline_of(connection: Connection, execution_id: str) -> str:
    """Return the pipeline of an execution, which never changes; an empty string if the execution does not exist."""
    statement = select(executions.c.pipeline_id).where(executions.c.id == execution_id)
    return connection.execute(statement).scalar() or ""


def _lock(connection: Connection, execution_id: str) -> Row[*tuple[Any, ...]]:
    columns = (executions.c.status, executions.c.slot, executions.c.pipeline_id, executions.c.queued)
    row = connection.execute(select(*columns).where(executions.c.id == execution_id).with_for_update()).first()
    if row is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return row


def _check_nothing_undone(connection: Connection, execution_id: str, status: ExecutionStatus) -> None:
    """Refuse a retry after a partial undo: undone stages do not run again, so their effects would be missing."""
    undone = (stage_runs.c.execution_id == execution_id) & (stage_runs.c.status == StageStatus.ROLLED_BACK)
    if connection.execute(select(stage_runs.c.stage_id).where(undone).limit(1)).first() is not None:
        raise NotAllowedError(
            f"Cannot retry execution with status: {status}; some of its stages were undone; allowed: rollback, rerun",
            status=status,
            command=CommandKind.RETRY,
        )


def _free_slot(connection: Connection, pipeline_id: str, concurrency: int) -> int:
    """Return the lowest free slot. Raises ConflictError. The pipeline is locked, so no other execution gets it too."""
    taken = select(executions.c.slot).where(executions.c.pipeline_id == pipeline_id, executions.c.slot.is_not(None))
    free = set(range(1, concurrency + 1)).difference(connection.execute(taken).scalars())
    if not free:
        message = f"Pipeline {pipeline_id} is running already: concurrency limit {concurrency} reached"
        raise ConflictError(message, pipeline_id=pipeline_id)
    return min(free)
