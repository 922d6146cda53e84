"""What was said before the runs; the journal writes it together with the execution."""

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
    """An assessment as stored: `acted` unless the gate was in shadow mode, `forced` is why it was overruled."""

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
    """The assessments of those executions that have one."""
    columns = [risk_assessments.c[name] for name in AssessmentRow.__slots__]
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(risk_assessments.c.execution_id.in_(list(execution_ids))))
        return {row.execution_id: AssessmentRow(**row._mapping) for row in rows}


def probabilities(database: Database, execution_ids: Collection[str]) -> list[tuple[str, float]]:
    """Level and probability of failure of each of those executions that was assessed."""
    columns = (risk_assessments.c.level, risk_assessments.c.probability)
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(risk_assessments.c.execution_id.in_(list(execution_ids))))
        return [(row.level, row.probability) for row in rows]
