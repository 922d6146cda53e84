"""Risk assessments made before runs; the journal writes them together with the executions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_assessments

__all__ = ["AssessmentRow", "by_executions", "probabilities"]


@dataclass(frozen=True, slots=True)
class AssessmentRow:
    """A stored assessment. `acted` is false in shadow mode; `forced` is the reason for overriding the gate."""

    execution_id: str
    pipeline_id: str
    at: datetime
    probability: float
    level: str
    gate: str
    acted: bool
    forced: str | None
    data: dict[str, Any]


def by_executions(database: Database, execution_ids: Collection[str]) -> dict[str, AssessmentRow]:
    """Return the assessments of these executions, by execution id; one without an assessment is missing."""
    columns = [risk_assessments.c[name] for name in AssessmentRow.__slots__]
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(risk_assessments.c.execution_id.in_(list(execution_ids))))
        return {row.execution_id: AssessmentRow(**row._mapping) for row in rows}


def probabilities(database: Database, execution_ids: Collection[str]) -> list[tuple[str, float]]:
    """Return risk level and failure probability of each of these executions that was assessed."""
    columns = (risk_assessments.c.level, risk_assessments.c.probability)
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(risk_assessments.c.execution_id.in_(list(execution_ids))))
        return [(row.level, row.probability) for row in rows]
