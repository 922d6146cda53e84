"""Decisions of the safety engine as rows: written by the journal, with their overrides by users and their outcomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from flexiroaster.errors import NotFoundError
from flexiroaster.model.paging import Page, Window
from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Sort
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
    "open_ones",
    "page",
    "set_outcomes",
]

NEWEST = Sort("decisions", decisions.c.id, decisions.c.at, descending=True)


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


def get(database: Database, decision_id: str) -> DecisionRow:
    """Return one decision. Raises NotFoundError."""
    with database.read() as connection:
        row = connection.execute(select(*_COLUMNS).where(decisions.c.id == decision_id)).first()
        if row is None:
            raise NotFoundError(f"Decision not found: {decision_id}", decision_id=decision_id)
        return _with_overrides(connection, [row])[0]


def by_ids(database: Database, decision_ids: Collection[str]) -> dict[str, DecisionRow]:
    """Return these decisions by id; one that does not exist is missing."""
    with database.read() as connection:
        rows = connection.execute(select(*_COLUMNS).where(decisions.c.id.in_(list(decision_ids)))).all()
        return {item.id: item for item in _with_overrides(connection, rows)}


def page(database: Database, wanted: DecisionFilter, window: Window) -> Page[DecisionRow]:
    """Return a page of the matching decisions, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        statement = select(*_COLUMNS).where(*_conditions(wanted))
        found = sql.page(connection, statement, NEWEST, window, _row)
        told = _overrides(connection, [item.id for item in found.items])
    return replace(found, items=tuple(replace(item, overrides=told.get(item.id, ())) for item in found.items))


def of_executions(database: Database, execution_ids: Collection[str]) -> dict[str, list[DecisionRow]]:
    """Return the decisions about these executions, by execution, oldest first."""
    wanted = select(*_COLUMNS).where(decisions.c.execution_id.in_(list(execution_ids)))
    with database.read() as connection:
        rows = connection.execute(wanted.order_by(decisions.c.execution_id, decisions.c.seq)).all()
        found: dict[str, list[DecisionRow]] = {}
        for item in _with_overrides(connection, rows):
            found.setdefault(item.execution_id, []).append(item)
    return found


def count(database: Database, wanted: DecisionFilter) -> int:
    """Count the matching decisions."""
    statement = select(func.count()).select_from(decisions).where(*_conditions(wanted))
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


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


def open_ones(connection: Connection, execution_ids: Collection[str]) -> list[DecisionRow]:
    """Return the decisions about these executions whose outcome is still unknown, oldest first."""
    wanted = (decisions.c.execution_id.in_(list(execution_ids)), decisions.c.outcome.is_(None))
    rows = connection.execute(select(*_COLUMNS).where(*wanted).order_by(decisions.c.execution_id, decisions.c.seq))
    return [_row(row) for row in rows]


def set_outcomes(connection: Connection, outcomes: Mapping[str, str], at: datetime) -> None:
    """Set the outcomes of decisions; an outcome that is set never changes."""
    for decision_id, outcome in outcomes.items():
        undecided = (decisions.c.id == decision_id, decisions.c.outcome.is_(None))
        connection.execute(update(decisions).where(*undecided).values(outcome=outcome, outcome_at=at))


_COLUMNS = [decisions.c[name] for name in DecisionRow.__slots__ if name != "overrides"]


def _row(row: Row[Any]) -> DecisionRow:
    return DecisionRow(**{column.name: row._mapping[column.name] for column in _COLUMNS})


def _with_overrides(connection: Connection, rows: Collection[Row[Any]]) -> list[DecisionRow]:
    items = [_row(row) for row in rows]
    told = _overrides(connection, [item.id for item in items])
    return [replace(item, overrides=told.get(item.id, ())) for item in items]


def _overrides(connection: Connection, decision_ids: list[str]) -> dict[str, tuple[Override, ...]]:
    if not decision_ids:
        return {}
    columns = [decision_overrides.c[name] for name in Override.__slots__]
    wanted = select(*columns).where(decision_overrides.c.decision_id.in_(decision_ids))
    found: dict[str, tuple[Override, ...]] = {}
    for row in connection.execute(wanted.order_by(decision_overrides.c.id)):
        found[row.decision_id] = (*found.get(row.decision_id, ()), Override(**row._mapping))
    return found


def _conditions(wanted: DecisionFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool] | None] = [
        None if wanted.pipeline_id is None else decisions.c.pipeline_id == wanted.pipeline_id,
        None if wanted.execution_id is None else decisions.c.execution_id == wanted.execution_id,
        None if wanted.actions is None else decisions.c.action.in_(wanted.actions),
    ]
    return [condition for condition in found if condition is not None]
