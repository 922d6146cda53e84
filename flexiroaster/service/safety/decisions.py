"""The safety engine's decisions about failures and anomalies, and their overrides by users."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from flexiroaster.errors import ConflictError, InputError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import EventType, utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.model.paging import Page, Window
from flexiroaster.safety.policy import Action
from flexiroaster.service.executions import commands
from flexiroaster.service.installation import Installation
from flexiroaster.store import events as event_list
from flexiroaster.store import executions
from flexiroaster.store.safety import decisions
from flexiroaster.store.safety.decisions import DecisionFilter, DecisionRow, Override

__all__ = [
    "MAX_REASON",
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

MAX_REASON = 4000
BATCHES = 20


def get(installation: Installation, decision_id: str) -> DecisionRow:
    """Return one decision with its overrides. Raises NotFoundError, StoreError."""
    return decisions.get(installation.database, decision_id)


def by_ids(installation: Installation, decision_ids: Collection[str]) -> dict[str, DecisionRow]:
    """Return several decisions in one query; nonexistent ids are missing. Raises StoreError."""
    return decisions.by_ids(installation.database, decision_ids)


def page(
    installation: Installation, wanted: DecisionFilter | None = None, window: Window | None = None
) -> Page[DecisionRow]:
    """Return a page of the matching decisions, newest first. Raises InputError (cursor), StoreError."""
    return decisions.page(installation.database, wanted or DecisionFilter(), window or Window())


def count(installation: Installation, wanted: DecisionFilter | None = None) -> int:
    """Return the number of matching decisions. Raises StoreError."""
    return decisions.count(installation.database, wanted or DecisionFilter())


def of_execution(installation: Installation, execution_id: str) -> list[DecisionRow]:
    """Return the decisions about one execution, oldest first, with their outcomes once the execution has ended.

    Raises NotFoundError (execution), StoreError.
    """
    row = executions.execution(installation.database, execution_id)
    found = of_executions(installation, [execution_id]).get(execution_id, [])
    if row.status not in TERMINAL or all(decision.outcome is not None for decision in found):
        return found
    installation.risk_state.catch_up(batches=BATCHES)
    return of_executions(installation, [execution_id]).get(execution_id, [])


def of_executions(installation: Installation, execution_ids: Collection[str]) -> dict[str, list[DecisionRow]]:
    """Return the decisions about these executions by id, oldest first; executions without decisions are missing."""
    return decisions.of_executions(installation.database, execution_ids)


def awaits_a_person(installation: Installation, execution_id: str) -> bool:
    """Return whether a decision paused the execution and it has not been resumed since. Raises StoreError."""
    made = decisions.of_executions(installation.database, [execution_id]).get(execution_id, [])
    if not made or made[-1].taken != Action.PAUSE:
        return False
    since = event_list.events_of(installation.database, execution_id, after=made[-1].seq)
    return all(event.type is not EventType.EXECUTION_RESUMED for event in since)


def override(
    installation: Installation, decision_id: str, action: Action, reason: str, *, requested_by: str = ""
) -> DecisionRow:
    """Override a decision with another action; return the decision with the override recorded.

    Continue resumes the execution, retry runs the failed stage again, skip continues without that stage, terminate
    stops the execution; pause and rollback do as named. The override is an ordinary command, which the worker driving
    the execution applies. Raises NotFoundError (no such decision, or its execution is gone), InputError (no reason, or
    the action does not fit), ConflictError (there is a newer decision, or the pipeline is already running),
    NotAllowedError (not in this state), StoreError.
    """
    if not reason.strip() or len(reason) > MAX_REASON or "\0" in reason:
        message = f"reason: must contain text, at most {MAX_REASON} characters, without NUL characters"
        raise InputError(message, argument="reason")
    decision = decisions.get(installation.database, decision_id)
    row = executions.execution(installation.database, decision.execution_id)
    with installation.database.read() as connection:
        _check_newest(connection, decision)
    kind, arguments = _command(decision, action, row.status)

    def record_override(connection: Connection) -> None:
        _check_newest(connection, decision)  # again, now that the execution's row is locked
        decisions.add_override(connection, decision.id, action.value, reason, requested_by, utc_now())

    commands.request(
        installation,
        row.id,
        kind,
        {**arguments, "reason": f"decision {decision_id} overridden: {reason}"},
        requested_by,
        in_transaction=record_override,
    )
    return decisions.get(installation.database, decision_id)


def _check_newest(connection: Connection, decision: DecisionRow) -> None:
    """Raise ConflictError if there is a newer decision about the execution."""
    newest = decisions.newest(connection, decision.execution_id)
    if newest is not None and newest[0] != decision.id:
        message = f"Decision {decision.id} was superseded by {newest[0]}: {newest[1]}"
        raise ConflictError(message, decision_id=newest[0])


def _command(decision: DecisionRow, action: Action, status: ExecutionStatus) -> tuple[CommandKind, dict[str, Any]]:
    """Return the command that carries out the action. Raises InputError."""
    failed = decision.error_class is not None
    if failed and action is Action.CONTINUE:
        raise InputError("action: cannot continue because a stage has failed; retry or skip it", argument="action")
    if not failed and action in {Action.RETRY, Action.SKIP}:
        raise InputError(f"action: nothing has failed, so there is nothing to {action}", argument="action")
    again = CommandKind.RESUME if status is ExecutionStatus.PAUSED else CommandKind.RETRY
    by_action: dict[Action, tuple[CommandKind, dict[str, Any]]] = {
        Action.CONTINUE: (CommandKind.RESUME, {}),
        Action.RETRY: (again, {}),
        Action.SKIP: (again, {"skip": [decision.stage_id]}),
        Action.PAUSE: (CommandKind.PAUSE, {"mode": "drain"}),
        Action.ROLLBACK: (CommandKind.ROLLBACK, {}),
        Action.TERMINATE: (CommandKind.STOP, {}),
    }
    return by_action[action]
