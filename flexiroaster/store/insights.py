"""Insights: one open row for each cause, counted up while it lasts, resolved when it is gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, insert, select, update

from flexiroaster.store import keyset
from flexiroaster.store.database import Database
from flexiroaster.store.keyset import Page, Sort, Window
from flexiroaster.store.safety_tables import insights

__all__ = [
    "Finding",
    "InsightFilter",
    "InsightRow",
    "count",
    "note",
    "open_causes",
    "page",
    "part",
    "resolve",
    "resolve_older",
]

NEWEST = Sort("insights", insights.c.id, descending=True)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to tell people. Findings with the same `cause` are one insight while it is open."""

    cause: str
    insight_type: str
    severity: str
    title: str
    message: str
    confidence: float
    pipeline_id: str | None = None
    execution_id: str | None = None
    stage_id: str | None = None
    recommendation: str | None = None
    risk_score: float | None = None
    factors: list[dict[str, Any]] = field(default_factory=list)
    explanation: str | None = None
    action_taken: str | None = None


@dataclass(frozen=True, slots=True)
class InsightRow:
    """An insight as stored; `occurrences` findings of one cause, the newest `last_seen_at`."""

    id: int
    pipeline_id: str | None
    execution_id: str | None
    stage_id: str | None
    insight_type: str
    severity: str
    title: str
    message: str
    recommendation: str | None
    confidence: float
    risk_score: float | None
    factors: list[dict[str, Any]]
    explanation: str | None
    action_taken: str | None
    occurrences: int
    created_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None

    @property
    def is_resolved(self) -> bool:
        """Whether its cause is gone."""
        return self.resolved_at is not None


@dataclass(frozen=True, slots=True)
class InsightFilter:
    """Which insights; what is None does not matter."""

    pipeline_id: str | None = None
    execution_id: str | None = None
    unresolved_only: bool = False
    created_after: datetime | None = None


def note(connection: Connection, finding: Finding, at: datetime) -> None:
    """Tell of a finding: a new insight, or once more the open one of the same cause. What is told of an execution
    again, while it runs and when it has ended, counts once.
    """
    values = asdict(finding)
    newer = {name: value for name, value in values.items() if name != "cause"}
    same = insights.c.execution_id == finding.execution_id
    more = 1 if finding.execution_id is None else case((same, 0), else_=1)
    counted = {"occurrences": insights.c.occurrences + more, "last_seen_at": at}
    known = connection.execute(update(insights).where(*_open(finding.cause)).values(**newer, **counted))
    if known.rowcount == 0:
        connection.execute(insert(insights).values(**values, occurrences=1, created_at=at, last_seen_at=at))


def open_causes(connection: Connection, types: Collection[str]) -> set[str]:
    """The causes of the open insights of these types."""
    wanted = (insights.c.insight_type.in_(list(types)), insights.c.resolved_at.is_(None))
    return set(connection.execute(select(insights.c.cause).where(*wanted)).scalars())


def resolve(connection: Connection, causes: list[str], at: datetime) -> None:
    """These causes are gone."""
    if causes:
        gone = (insights.c.cause.in_(causes), insights.c.resolved_at.is_(None))
        connection.execute(update(insights).where(*gone).values(resolved_at=at))


def resolve_older(connection: Connection, insight_type: str, before: datetime, at: datetime) -> None:
    """The open insights of a type that were not seen since then are gone."""
    kind = (insights.c.insight_type == insight_type, insights.c.resolved_at.is_(None))
    connection.execute(update(insights).where(*kind, insights.c.last_seen_at < before).values(resolved_at=at))


def page(database: Database, wanted: InsightFilter, window: Window) -> Page[InsightRow]:
    """A page of the insights that match, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        return keyset.page(connection, select(*_COLUMNS).where(*_conditions(wanted)), NEWEST, window, _row)


def part(database: Database, wanted: InsightFilter, skip: int, limit: int) -> tuple[list[InsightRow], int]:
    """A part of the insights that match, newest first, and how many match."""
    statement = select(*_COLUMNS).where(*_conditions(wanted)).order_by(insights.c.id.desc())
    with database.read() as connection:
        rows = [_row(row) for row in connection.execute(statement.offset(skip).limit(limit))]
        total = connection.execute(select(func.count()).select_from(insights).where(*_conditions(wanted))).scalar_one()
    return rows, total


def count(database: Database, wanted: InsightFilter) -> int:
    """How many insights match."""
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(insights).where(*_conditions(wanted))).scalar_one()


_COLUMNS = [insights.c[name] for name in InsightRow.__slots__]


def _row(row: Row[Any]) -> InsightRow:
    return InsightRow(**{name: row._mapping[name] for name in InsightRow.__slots__})


def _open(cause: str) -> tuple[ColumnElement[bool], ...]:
    return (insights.c.cause == cause, insights.c.resolved_at.is_(None))


def _conditions(wanted: InsightFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool] | None] = [
        None if wanted.pipeline_id is None else insights.c.pipeline_id == wanted.pipeline_id,
        None if wanted.execution_id is None else insights.c.execution_id == wanted.execution_id,
        insights.c.resolved_at.is_(None) if wanted.unresolved_only else None,
        None if wanted.created_after is None else insights.c.created_at >= wanted.created_after,
    ]
    return [condition for condition in found if condition is not None]
