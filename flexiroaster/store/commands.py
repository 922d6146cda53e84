"""Commands as rows: asked for by anybody, carried out by whoever drives the execution."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Row, case, insert, select, update

from flexiroaster.errors import ConflictError, NotAllowedError, NotFoundError
from flexiroaster.model.command import Command, CommandKind, check_command
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store.clock import database_now
from flexiroaster.store.database import Database
from flexiroaster.store.pipeline_lock import lock_pipeline
from flexiroaster.store.tables import commands, executions, stage_runs

__all__ = ["pending", "request"]

_AT = executions.c.claimable_at
_CLAIMABLE = case(
    (_AT.is_(None), database_now()),
    ((executions.c.lease_owner.is_(None)) & (database_now() < _AT), database_now()),
    else_=_AT,
)
"""From when somebody may claim an execution that has a command: now, unless it is driven or claimable already. One
that is paused until a deadline is not driven, and would be claimable only then."""


def request(
    database: Database,
    execution_id: str,
    kind: CommandKind,
    arguments: dict[str, Any],
    *,
    requested_by: str,
    concurrency: int | None = None,
    beside: Callable[[Connection], None] | None = None,
) -> ExecutionStatus:
    """Store a command, and let somebody claim the execution if nobody drives it; the state it was in.

    `concurrency` is that of the pipeline: a retry needs a slot again. `beside` writes what belongs to it in the same
    transaction. Raises NotFoundError, NotAllowedError (not in
    this state; a retry of what was undone in part), ConflictError (no slot is free).
    """
    now = utc_now()
    with database.write() as connection:
        if kind is CommandKind.RETRY and concurrency is not None:
            lock_pipeline(connection, _pipeline_of(connection, execution_id))
        row = _locked(connection, execution_id)
        status = ExecutionStatus(row.status)
        check_command(kind, status)
        if kind is CommandKind.RESUME and row.queued:
            message = f"Cannot resume execution {execution_id}: it waits for its turn; allowed: stop"
            raise NotAllowedError(message, status=status, command=kind)
        values: dict[str, Any] = {"claimable_at": _CLAIMABLE}
        if kind is CommandKind.RETRY:
            _check_nothing_undone(connection, execution_id, status)
            if concurrency is not None and row.slot is None:
                values["slot"] = _free_slot(connection, row.pipeline_id, concurrency)
                arguments = {**arguments, "slot": values["slot"]}  # a driver that loaded it before hears of it
        connection.execute(
            insert(commands).values(
                execution_id=execution_id,
                kind=kind,
                arguments=arguments,
                requested_by=requested_by,
                requested_at=now,
            )
        )
        connection.execute(update(executions).where(executions.c.id == execution_id).values(values))
        if beside is not None:
            beside(connection)
    return status


def pending(database: Database, execution_ids: Collection[str]) -> list[Command]:
    """The commands of these executions that nobody has carried out, oldest first."""
    if not execution_ids:
        return []
    statement = select(commands).where(commands.c.execution_id.in_(execution_ids), commands.c.handled_at.is_(None))
    with database.read() as connection:
        rows = connection.execute(statement.order_by(commands.c.id)).all()
    return [Command(r.id, r.execution_id, CommandKind(r.kind), r.arguments, r.requested_by) for r in rows]


def _pipeline_of(connection: Connection, execution_id: str) -> str:
    """The pipeline of an execution, which never changes; the empty name where there is no such execution."""
    statement = select(executions.c.pipeline_id).where(executions.c.id == execution_id)
    return connection.execute(statement).scalar() or ""


def _locked(connection: Connection, execution_id: str) -> Row[*tuple[Any, ...]]:
    columns = (executions.c.status, executions.c.slot, executions.c.pipeline_id, executions.c.queued)
    row = connection.execute(select(*columns).where(executions.c.id == execution_id).with_for_update()).first()
    if row is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return row


def _check_nothing_undone(connection: Connection, execution_id: str, status: ExecutionStatus) -> None:
    """A stage that was undone does not run again, so a retry would complete without its effect."""
    undone = (stage_runs.c.execution_id == execution_id) & (stage_runs.c.status == StageStatus.ROLLED_BACK)
    if connection.execute(select(stage_runs.c.stage_id).where(undone).limit(1)).first() is not None:
        raise NotAllowedError(
            f"Cannot retry execution with status: {status}; some of its stages were undone; allowed: rollback, rerun",
            status=status,
            command=CommandKind.RETRY,
        )


def _free_slot(connection: Connection, pipeline_id: str, concurrency: int) -> int:
    """The lowest free slot; its pipeline is locked, so no other execution gets the same one. Raises ConflictError."""
    taken = set(
        connection.execute(
            select(executions.c.slot).where(executions.c.pipeline_id == pipeline_id, executions.c.slot.is_not(None))
        ).scalars()
    )
    for slot in range(1, concurrency + 1):
        if slot not in taken:
            return slot
    raise ConflictError(f"Pipeline {pipeline_id} is running already, {concurrency} at a time", pipeline_id=pipeline_id)
