"""The models of the safety engine: decisions and their overrides, risk assessments, insights."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.service.safety.decisions import MAX_REASON, Action, DecisionRow
from flexiroaster.service.safety.risk import AssessmentRow
from rest_compat.dependencies import TEXT
from rest_compat.models import Answer

__all__ = ["Decision", "Decisions", "FalseAlarms", "Insight", "Insights", "OverrideRequest", "RiskAssessment"]


def _require_text(reason: str) -> str:
    if not reason.strip():
        raise ValueError("must not be blank: give a reason")
    return reason


class OverrideRequest(BaseModel):
    """The action to take instead, and the reason. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    action: Action
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON, pattern=TEXT), AfterValidator(_require_text)]


class Verdict(Answer):
    """The verdict on one of the six actions; the first admissible action is chosen."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str


class Override(Answer):
    """A user's override of a decision."""

    action: Action
    reason: str
    requested_by: str
    at: datetime


class Decision(Answer):
    """A decision about a failed stage, or about an anomaly while a stage ran (without `error_class`).

    `action` is the chosen action and `taken` the one carried out; they differ if the policy only records (`mode`).
    `outcome` is set once the execution has ended: for a retry `succeeded`, `failed` or `stopped`, otherwise the final
    status of the execution.
    """

    id: str
    execution_id: str
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: ErrorClass | None
    action: Action
    taken: Action
    mode: PolicyMode
    reason: str
    explanation: str
    verdicts: list[Verdict]
    situation: dict[str, Any]
    policy_version: str
    model_version: str | None
    propensity: float
    outcome: str | None
    outcome_at: datetime | None
    overrides: list[Override]

    @classmethod
    def of(cls, row: DecisionRow) -> Decision:
        """Build the decision from a row."""
        return cls.from_row(row, **{name: row.data[name] for name in _STORED_AS_JSON})


_STORED_AS_JSON = ("reason", "explanation", "verdicts", "situation", "policy_version", "model_version", "propensity")
"""The fields stored in the JSON column of a row."""


class Decisions(Answer):
    """The decisions about an execution, oldest first."""

    decisions: list[Decision]
    total: int


# --- risk assessments and insights ---


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
            factors=[{name: factor[name] for name in RiskFactor.model_fields} for factor in row.data["factors"]],
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


class FalseAlarms(Answer):
    """The alarms of one type in runs that have ended, and how many were false because the run completed anyway.

    `false_rate` is null if no alarm was raised.
    """

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None


class Insights(Answer):
    """Insights, newest first; `total` counts all matches.

    `false_alarms` covers all alarms of the installation, independent of the filters.
    """

    insights: list[Insight]
    total: int
    false_alarms: list[FalseAlarms]
