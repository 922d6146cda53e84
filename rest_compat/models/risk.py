"""The models of the safety engine: risk assessments before a run, and insights."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from flexiroaster.service.safety.insights import Accuracy, InsightRow
from flexiroaster.service.safety.risk import AssessmentRow
from rest_compat.models.base import Answer

__all__ = ["FalseAlarms", "Insight", "Insights", "RiskAssessment", "RiskFactor", "Severity"]


class RiskFactor(Answer):
    """A factor of the risk score; `contribution` is its weight times its score."""

    name: str
    value: float | None
    score: float
    weight: float
    description: str
    contribution: float


class RiskAssessment(Answer):
    """The predicted risk of failure before the start of a run. `risk_score` is the sum of the contributions."""

    risk_score: float
    risk_level: str
    should_block: bool
    factors: list[RiskFactor]
    recommendations: list[str]
    explanation: str

    @classmethod
    def of(cls, row: AssessmentRow) -> RiskAssessment:
        """Build the assessment from a row."""
        return cls(
            risk_score=row.data["risk_score"],
            risk_level=row.level,
            should_block=row.gate == "block",
            factors=[_factor(each) for each in row.data["factors"]],
            recommendations=row.data["recommendations"],
            explanation=row.data["explanation"]["text"],
        )


class Severity(StrEnum):
    """The severity of an insight."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Insight(Answer):
    """A finding of the safety engine."""

    id: int
    pipeline_id: str | None
    execution_id: str | None
    stage_id: str | None
    insight_type: str
    severity: Severity
    title: str
    message: str
    recommendation: str | None
    confidence: float
    risk_score: float | None
    factors: list[dict[str, Any]]
    explanation: str | None
    action_taken: str | None
    is_resolved: bool
    created_at: datetime

    @classmethod
    def of(cls, row: InsightRow) -> Insight:
        """Build the insight from a row."""
        return cls.model_validate(row)


class FalseAlarms(Answer):
    """The alarms of one type in runs that have ended, and how many were false because the run completed anyway.

    `false_rate` is null if no alarm was raised.
    """

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None

    @classmethod
    def of(cls, known: Accuracy) -> FalseAlarms:
        """Build the counts from the accuracy of one type of alarm."""
        return cls.model_validate(known)


class Insights(Answer):
    """Insights, newest first; `total` counts all matches.

    `false_alarms` covers all alarms of the installation, independent of the filters.
    """

    insights: list[Insight]
    total: int
    false_alarms: list[FalseAlarms]


def _factor(data: dict[str, Any]) -> RiskFactor:
    return RiskFactor(**{name: data[name] for name in RiskFactor.model_fields})
