"""Risk assessments and insights of the safety engine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.safety.gate import Gate, RiskLevel
from flexiroaster.safety.risk.model import Rung
from flexiroaster.service.safety.risk import AssessmentRow
from graphql_api.permissions import fields_require
from graphql_api.schema.scalars import JSON

__all__ = ["Insight", "InsightAccuracy", "RiskAssessment", "assessment", "stored_assessment"]


@fields_require(Role.VIEWER)
@strawberry.type
class RiskFactor:
    """One of the six factors of the risk score: the measured value and its contribution (`weight` times `score`)."""

    name: str
    value: float | None
    score: float
    weight: float
    contribution: float
    description: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskContribution:
    """The contribution of one feature group to the probability, and the fact behind it."""

    name: str
    amount: float
    fact: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskExplanation:
    """The explanation of the probability: `base` plus all contributions is `total`."""

    base: float
    total: float
    contributions: list[RiskContribution]
    text: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskAssessment:
    """The risk that a run fails, assessed before it starts. The level and the gate follow from the probability."""

    pipeline_id: str
    probability: float = strawberry.field(description="Calibrated probability that the run fails.")
    low: float = strawberry.field(description="Lower end of the probability's interval.")
    high: float = strawberry.field(description="Upper end of the probability's interval.")
    rung: Rung = strawberry.field(description="The model that the probability comes from.")
    reason: str = strawberry.field(description="Why this model was used.")
    no_history_yet: bool = strawberry.field(description="Whether the probability comes only from other pipelines.")
    risk_score: float = strawberry.field(description="Six-factor score; it ranks runs and is not a probability.")
    factors: list[RiskFactor]
    risk_level: RiskLevel
    gate: Gate
    recommendations: list[str]
    explanation: RiskExplanation
    model_version: str
    features: JSON = strawberry.field(description="Inputs of the model, by name.")
    acted: bool | None = strawberry.field(
        description="For an execution, whether the gate was enforced: false in shadow mode. Null before a start."
    )
    forced: str | None = strawberry.field(description="For an execution, the reason for overriding the gate.")


@fields_require(Role.VIEWER)
@strawberry.type
class Insight:
    """A finding of the safety engine. While a cause lasts, it has one insight."""

    insight_id: int = strawberry.field(resolver=lambda root: root.id)
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
    explanation: str | None
    action_taken: str | None
    occurrences: int = strawberry.field(description="How often the safety engine has found it.")
    is_resolved: bool
    created_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None


@fields_require(Role.VIEWER)
@strawberry.type
class InsightAccuracy:
    """Alarms of one type in ended runs, and how many of them were false because the run completed anyway."""

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None = strawberry.field(
        description="False share of the raised alarms, 0 to 1; null without any."
    )


def stored_assessment(row: AssessmentRow) -> RiskAssessment:
    """Convert the stored assessment of an execution."""
    return assessment(row.data, acted=row.acted, forced=row.forced)


def assessment(data: Mapping[str, Any], *, acted: bool | None = None, forced: str | None = None) -> RiskAssessment:
    """Create an assessment from its JSON values."""
    chance, explained = data["probability"], data["explanation"]
    return RiskAssessment(
        pipeline_id=data["pipeline_id"],
        probability=chance["probability"],
        low=chance["low"],
        high=chance["high"],
        rung=Rung(chance["rung"]),
        reason=chance["reason"],
        no_history_yet=data["no_history_yet"],
        risk_score=data["risk_score"],
        factors=[RiskFactor(**factor) for factor in data["factors"]],
        risk_level=RiskLevel(data["risk_level"]),
        gate=Gate(data["gate"]),
        recommendations=list(data["recommendations"]),
        explanation=RiskExplanation(
            base=explained["base"],
            total=explained["total"],
            contributions=[
                RiskContribution(name=c["name"], amount=c["amount"], fact=c["fact"]) for c in explained["contributions"]
            ],
            text=explained["text"],
        ),
        model_version=data["model_version"],
        features=JSON(dict(data["features"])),
        acted=acted,
        forced=forced,
    )
