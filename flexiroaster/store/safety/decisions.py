"""Decisions of the safety engine as rows: written by the journal, with their overrides by users and their outcomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.sql.operators import eq, in_op

from flexiroaster.errors import NotFoundError
from flexiroaster.model.paging import Page, Window
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Condition, Sort, TableReader, conditions
from flexiroaster.store.tables import decision_overrides, decisions

__all__ = [
    "DecisionFilter",
    "DecisionRow",
    "Override",
    "add_override",
    "by_ids",
    "count",
    "count_by_action",
    "get",
    "newest",
    "of_executions",
    "page",
    "set_outcomes",
    "without_outcome",
]


@dataclass(frozen=True, slots=True)
class Override:
    """A user's decision that overrides one of the safety engine."""

    id: int
    decision_id: str
    action: str
    reason: str
    requested_by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A stored decision. `action` is the choice, `taken` the action carried out; `mode` explains a difference.

    `data` has the situation, the verdict on each action, the versions and the explanation. `outcome` is set once the
    execution has ended: succeeded, failed or stopped for a retry, otherwise how the execution ended.
    """

    id: str
    execution_id: str
    seq: int
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: str | None
    action: str
    taken: str
    mode: str
    data: dict[str, Any]
    outcome: str | None
    outcome_at: datetime | None
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """A filter for decisions; a field that is None matches all."""

    pipeline_id: str | None = None
    execution_id: str | None = None
    actions: tuple[str, ...] | None = None


_reader = TableReader(decisions, DecisionRow)
_overrides_reader = TableReader(decision_overrides, Override)
_NEWEST = Sort("decisions", decisions.c.id, decisions.c.at, descending=True)
_OLDEST_FIRST = (decisions.c.execution_id, decisions.c.seq)


def get(database: Database, decision_id: str) -> DecisionRow:
    """Return one decision. Raises NotFoundError."""
    found = by_ids(database, [decision_id])
    if not found:
        raise NotFoundError(f"Decision not found: {decision_id}", decision_id=decision_id)
    return found[decision_id]


def by_ids(database: Database, decision_ids: Collection[str]) -> dict[str, DecisionRow]:
    """Return these decisions by id; one that does not exist is missing."""
    wanted = _reader.select(decisions.c.id.in_(list(decision_ids)))
    with database.read() as connection:
        return {item.id: item for item in _with_overrides(connection, _reader.all(connection, wanted))}


def of_executions(database: Database, execution_ids: Collection[str]) -> dict[str, list[DecisionRow]]:
    """Return the decisions about these executions, by execution, oldest first."""
    wanted = _reader.select(decisions.c.execution_id.in_(list(execution_ids))).order_by(*_OLDEST_FIRST)
    found: dict[str, list[DecisionRow]] = {}
    with database.read() as connection:
        for item in _with_overrides(connection, _reader.all(connection, wanted)):
            found.setdefault(item.execution_id, []).append(item)
    return found


def page(database: Database, wanted: DecisionFilter, window: Window) -> Page[DecisionRow]:
    """Return a page of the matching decisions, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        found = _reader.page(connection, _conditions(wanted), _NEWEST, window)
        return replace(found, items=tuple(_with_overrides(connection, found.items)))


def count(database: Database, wanted: DecisionFilter) -> int:
    """Count the matching decisions."""
    with database.read() as connection:
        return _reader.count(connection, _conditions(wanted))


def _conditions(wanted: DecisionFilter) -> list[Condition]:
    return conditions(
        (decisions.c.pipeline_id, eq, wanted.pipeline_id),
        (decisions.c.execution_id, eq, wanted.execution_id),
        (decisions.c.action, in_op, wanted.actions),
    )


def _with_overrides(connection: Connection, items: Collection[DecisionRow]) -> list[DecisionRow]:
    if not items:
        return []
    wanted = _overrides_reader.select(decision_overrides.c.decision_id.in_([item.id for item in items]))
    found: dict[str, tuple[Override, ...]] = {}
    for override in _overrides_reader.all(connection, wanted.order_by(decision_overrides.c.id)):
        found[override.decision_id] = (*found.get(override.decision_id, ()), override)
    return [replace(item, overrides=found.get(item.id, ())) for item in items]


def count_by_action(database: Database, since: datetime, until: datetime) -> dict[tuple[str, str], int]:
    """Count the decisions made after `since` and up to `until`, by (action, taken)."""
    key = (decisions.c.action, decisions.c.taken)
    made = (decisions.c.at > since, decisions.c.at <= until)
    with database.read() as connection:
        rows = connection.execute(select(*key, func.count()).where(*made).group_by(*key))
        return {(action, taken): number for action, taken, number in rows}


def add_override(
    connection: Connection, decision_id: str, action: str, reason: str, requested_by: str, at: datetime
) -> None:
    """Record that a user overrode a decision."""
    values = {"decision_id": decision_id, "action": action, "reason": reason, "requested_by": requested_by, "at": at}
    connection.execute(insert(decision_overrides).values(**values))


def newest(connection: Connection, execution_id: str) -> tuple[str, str] | None:
    """Return id and action of the newest decision about an execution, if any."""
    wanted = select(decisions.c.id, decisions.c.action).where(decisions.c.execution_id == execution_id)
    row = connection.execute(wanted.order_by(decisions.c.seq.desc()).limit(1)).first()
    return None if row is None else (row.id, row.action)


def without_outcome(connection: Connection, execution_ids: Collection[str]) -> list[DecisionRow]:
    """Return the decisions about these executions whose outcome is still unknown, oldest first."""
    wanted = (decisions.c.execution_id.in_(list(execution_ids)), decisions.c.outcome.is_(None))
    return _reader.all(connection, _reader.select(*wanted).order_by(*_OLDEST_FIRST))


def set_outcomes(connection: Connection, outcomes: Mapping[str, str], at: datetime) -> None:
    """Set the outcomes of decisions; an outcome that is set never changes."""
    for decision_id, outcome in outcomes.items():
        undecided = (decisions.c.id == decision_id, decisions.c.outcome.is_(None))
        connection.execute(update(decisions).where(*undecided).values(outcome=outcome, outcome_at=at))
