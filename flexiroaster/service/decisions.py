"""What the safety engine decided about failures and anomalies, and what people decided instead."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from flexiroaster.errors import ConflictError, InputError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import EventType, utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.safety.policy import Action
from flexiroaster.service import control
from flexiroaster.service.installation import Installation
from flexiroaster.store import decisions, queries
from flexiroaster.store.decisions import DecisionFilter, DecisionRow, Override
from flexiroaster.store.keyset import Page, Window

__all__ = [
    "LONGEST_REASON",
    "Action",
    "DecisionFilter",
    "DecisionRow",
    "Override",
    "awaits_a_person",
    "by_ids",
    "count",
    "get",
    "of_execution",
    "of_executions",
    "override",
    "page",
]

LONGEST_REASON = 4000
BATCHES = 20


def get(installation: Installation, decision_id: str) -> DecisionRow:
    """One decision, with what people decided instead. Raises NotFoundError, StoreError."""
    return decisions.get(installation.database, decision_id)


def by_ids(installation: Installation, decision_ids: Collection[str]) -> dict[str, DecisionRow]:
    """These decisions, read together; one that does not exist is missing. Raises StoreError."""
    return decisions.by_ids(installation.database, decision_ids)


def page(
    installation: Installation, wanted: DecisionFilter | None = None, window: Window | None = None
) -> Page[DecisionRow]:
    """A page of the decisions that match, newest first. Raises InputError (cursor), StoreError."""
    return decisions.page(installation.database, wanted or DecisionFilter(), window or Window())


def count(installation: Installation, wanted: DecisionFilter | None = None) -> int:
    """How many decisions match. Raises StoreError."""
    return decisions.count(installation.database, wanted or DecisionFilter())


def of_execution(installation: Installation, execution_id: str) -> list[DecisionRow]:
    """The decisions about one execution, oldest first, with what came of them if it has ended.

    Raises NotFoundError (execution), StoreError.
    """
    row = queries.execution(installation.database, execution_id)
    found = of_executions(installation, [execution_id]).get(execution_id, [])
    if row.status not in TERMINAL or all(decision.outcome is not None for decision in found):
        return found
    installation.knowledge.catch_up(batches=BATCHES)
    return of_executions(installation, [execution_id]).get(execution_id, [])


def of_executions(installation: Installation, execution_ids: Collection[str]) -> dict[str, list[DecisionRow]]:
    """The decisions about these executions, oldest first; one about which nothing was decided is missing."""
    return decisions.of_executions(installation.database, execution_ids)


def awaits_a_person(installation: Installation, execution_id: str) -> bool:
    """Whether an execution is paused because that was decided, and nobody has resumed it since. Raises StoreError."""
    made = decisions.of_executions(installation.database, [execution_id]).get(execution_id, [])
    if not made or made[-1].taken != Action.PAUSE:
        return False
    since = queries.events_of(installation.database, execution_id, after=made[-1].seq)
    return all(event.type is not EventType.EXECUTION_RESUMED for event in since)


def override(
    installation: Installation, decision_id: str, action: Action, reason: str, *, requested_by: str = ""
) -> DecisionRow:
    """Have something else done than was decided; the decision, with this kept beside it.

    Continue resumes, retry runs the failed stage again, skip goes on without it, pause, rollback and terminate (a stop)
    are what they say. It is a command like any other: whoever drives the execution carries it out. Raises NotFoundError
    (decision, or its execution is gone), InputError (no reason, an action that does not fit), ConflictError (something
    was decided since, or the pipeline runs already), NotAllowedError (not in this state), StoreError.
    """
    _check_reason(reason)
    decision = decisions.get(installation.database, decision_id)
    row = queries.execution(installation.database, decision.execution_id)
    with installation.database.read() as connection:
        _check_newest(connection, decision)
    kind, arguments = _command(decision, action, row.status)
    control.request(
        installation,
        row.id,
        kind,
        {**arguments, "reason": f"decision {decision_id} overridden: {reason}"},
        requested_by,
        beside=lambda connection: _keep(connection, decision, action, reason, requested_by),
    )
    return decisions.get(installation.database, decision_id)


def _keep(connection: Connection, decision: DecisionRow, action: Action, reason: str, requested_by: str) -> None:
    """Keep it beside the decision; the row of the execution is locked. Raises ConflictError."""
    _check_newest(connection, decision)
    decisions.add_override(connection, decision.id, action.value, reason, requested_by, utc_now())


def _check_newest(connection: Connection, decision: DecisionRow) -> None:
    """Raises ConflictError if something else was decided about its execution since."""
    newest = decisions.newest(connection, decision.execution_id)
    if newest is not None and newest[0] != decision.id:
        message = f"Something was decided since {decision.id}: {newest[0]}, {newest[1]}"
        raise ConflictError(message, decision_id=newest[0])


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > LONGEST_REASON or "\0" in reason:
        message = f"reason: says why, in at most {LONGEST_REASON} characters without NUL"
        raise InputError(message, argument="reason")


def _command(decision: DecisionRow, action: Action, status: ExecutionStatus) -> tuple[CommandKind, dict[str, Any]]:
    """The command that does it. Raises InputError."""
    failed = decision.error_class is not None
    if failed and action is Action.CONTINUE:
        raise InputError("action: a stage has failed: retry or skip it, not continue", argument="action")
    if not failed and action in {Action.RETRY, Action.SKIP}:
        raise InputError(f"action: nothing has failed that there were to {action}", argument="action")
    again = CommandKind.RESUME if status is ExecutionStatus.PAUSED else CommandKind.RETRY
    match action:
        case Action.CONTINUE:
            return CommandKind.RESUME, {}
        case Action.RETRY:
            return again, {}
        case Action.SKIP:
            return again, {"skip": [decision.stage_id]}
        case Action.PAUSE:
            return CommandKind.PAUSE, {"mode": "drain"}
        case Action.ROLLBACK:
            return CommandKind.ROLLBACK, {}
        case Action.TERMINATE:
            return CommandKind.STOP, {}
