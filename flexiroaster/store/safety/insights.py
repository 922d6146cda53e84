"""Insights: one open row per cause, with a count of its occurrences, resolved when the cause is gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, text, update
from sqlalchemy.sql.operators import eq, ge

from flexiroaster.model.paging import Page, Window
from flexiroaster.store.database import Database
from flexiroaster.store.journal.transitions import Finding
from flexiroaster.store.sql import Condition, Sort, TableReader, clean, conditions
from flexiroaster.store.tables import insights

__all__ = [
    "COLUMNS",
    "ON_CONFLICT",
    "RECORD",
    "Finding",
    "InsightFilter",
    "InsightRow",
    "count",
    "finding_row",
    "offset_page",
    "open_causes",
    "page",
    "record",
    "resolve",
    "resolve_older",
]


@dataclass(frozen=True, slots=True)
class InsightRow:
    """A stored insight: the number of findings with one cause (`occurrences`), the newest at `last_seen_at`."""

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
    """A filter for insights; a field that is None matches all."""

    pipeline_id: str | None = None
    execution_id: str | None = None
    unresolved_only: bool = False
    created_after: datetime | None = None


COLUMNS = ", ".join([*(each.name for each in fields(Finding)), "created_at", "last_seen_at"])
"""The columns of a `finding_row`; `occurrences` follows them."""

ON_CONFLICT = f"""
ON CONFLICT (cause) WHERE resolved_at IS NULL DO UPDATE SET
  {", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ") if name not in {"cause", "created_at"})},
  occurrences = insights.occurrences
    + CASE WHEN insights.execution_id = excluded.execution_id THEN 0 ELSE excluded.occurrences END
"""
"""The end of an INSERT on both databases: it updates and counts an insight that is already open for the same cause.

This needs a single statement, since another process may record the same cause at the same moment.
"""

RECORD = f"""
INSERT INTO insights ({COLUMNS}, occurrences) VALUES (:{COLUMNS.replace(", ", ", :")}, 1) {ON_CONFLICT}
"""  # noqa: S608 - all parts are constants of this file
"""Records one finding; its parameters come from `finding_row`."""

_RECORD = text(RECORD).bindparams(*(bindparam(name, type_=insights.c[name].type) for name in COLUMNS.split(", ")))


def finding_row(finding: Finding, at: datetime) -> dict[str, Any]:
    """Return a finding as the row of an insight."""
    row = {name: clean(value) if isinstance(value, str) else value for name, value in asdict(finding).items()}
    return {**row, "created_at": at, "last_seen_at": at}


def record(connection: Connection, finding: Finding, at: datetime) -> None:
    """Record a finding as a new insight, or as another occurrence of the open insight with the same cause.

    Repeated findings about one execution, while it runs and when it has ended, count once.
    """
    connection.execute(_RECORD, finding_row(finding, at))


def open_causes(connection: Connection, types: Collection[str]) -> set[str]:
    """Return the causes of the open insights of these types."""
    wanted = (insights.c.insight_type.in_(list(types)), insights.c.resolved_at.is_(None))
    return set(connection.execute(select(insights.c.cause).where(*wanted)).scalars())


def resolve(connection: Connection, causes: list[str], at: datetime) -> None:
    """Resolve the open insights with these causes."""
    if causes:
        gone = (insights.c.cause.in_(causes), insights.c.resolved_at.is_(None))
        connection.execute(update(insights).where(*gone).values(resolved_at=at))


def resolve_older(connection: Connection, insight_type: str, before: datetime, at: datetime) -> None:
    """Resolve the open insights of a type that were last seen before `before`."""
    kind = (insights.c.insight_type == insight_type, insights.c.resolved_at.is_(None))
    connection.execute(update(insights).where(*kind, insights.c.last_seen_at < before).values(resolved_at=at))


# --- lists -----------------------------------------------------------------------------------------------------------

_reader = TableReader(insights, InsightRow)
_NEWEST = Sort("insights", insights.c.id, descending=True)


def page(database: Database, wanted: InsightFilter, window: Window) -> Page[InsightRow]:
    """Return a page of the matching insights, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        return _reader.page(connection, _conditions(wanted), _NEWEST, window)


def offset_page(database: Database, wanted: InsightFilter, skip: int, limit: int) -> tuple[list[InsightRow], int]:
    """Return up to `limit` matching insights after `skip`, newest first, and the total number of matches."""
    with database.read() as connection:
        return _reader.offset_page(connection, _conditions(wanted), _NEWEST, skip, limit)


def count(database: Database, wanted: InsightFilter) -> int:
    """Count the matching insights."""
    with database.read() as connection:
        return _reader.count(connection, _conditions(wanted))


def _conditions(wanted: InsightFilter) -> list[Condition]:
    found = conditions(
        (insights.c.pipeline_id, eq, wanted.pipeline_id),
        (insights.c.execution_id, eq, wanted.execution_id),
        (insights.c.created_at, ge, wanted.created_after),
    )
    return [*found, insights.c.resolved_at.is_(None)] if wanted.unresolved_only else found
