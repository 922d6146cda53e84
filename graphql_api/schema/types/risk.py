"""Risk: what the safety engine says before a run, and why; and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.safety.gate import Gate, RiskLevel
from flexiroaster.safety.model import Rung
from flexiroaster.service.risk import AssessmentRow
from graphql_api.permissions import fields_require
from graphql_api.schema.scalars import JSON

__all__ = ["Insight", "InsightAccuracy", "RiskAssessment", "assessment", "stored_assessment"]


@fields_require(Role.VIEWER)
@strawberry.type
class RiskFactor:
    """One of the six factors of the score: what was measured, and what it adds (`weight` times `score`)."""

    name: str
    value: float | None
    score: float
    weight: float
    contribution: float
    description: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskContribution:
    """What one group of features adds to the probability, and the fact behind it."""

    name: str
    amount: float
    fact: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskExplanation:
    """Why this probability: `base` plus all contributions is `total`."""

    base: float
    total: float
    contributions: list[RiskContribution]
    text: str


@fields_require(Role.VIEWER)
@strawberry.type
class RiskAssessment:
    """How likely a run fails, judged before it starts. Levels and the gate follow from the probability."""

    pipeline_id: str
    probability: float = strawberry.field(description="P(failure), calibrated.")
    low: float = strawberry.field(description="The lower end of its interval.")
    high: float = strawberry.field(description="The upper end of its interval.")
    rung: Rung = strawberry.field(description="Which model it comes from.")
    reason: str = strawberry.field(description="Why that model.")
    no_history_yet: bool = strawberry.field(description="Whether the number is that of other pipelines.")
    risk_score: float = strawberry.field(description="The six-factor score: it ranks, it is no probability.")
    factors: list[RiskFactor]
    risk_level: RiskLevel
    gate: Gate
    recommendations: list[str]
    explanation: RiskExplanation
    model_version: str
    features: JSON = strawberry.field(description="What the model was given, by name.")
    acted: bool | None = strawberry.field(
        description="Of an execution: false where the gate was in shadow mode; null before a start."
    )
    forced: str | None = strawberry.field(description="Of an execution: the reason why the gate was overruled.")


@fields_require(Role.VIEWER)
@strawberry.type
class Insight:
    """Something the safety engine has found: one for each cause while it lasts."""

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
    occurrences: int = strawberry.field(description="How often it was found.")
    is_resolved: bool
    created_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None


@fields_require(Role.VIEWER)
@strawberry.type
class InsightAccuracy:
    """How often alarms of one type were raised in runs that have ended, and how many were false: the run completed all
    the same.
    """

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None = strawberry.field(description="Of those raised, 0 to 1; null while there was none.")


def stored_assessment(row: AssessmentRow) -> RiskAssessment:
    """What was said before an execution."""
    return assessment(row.data, acted=row.acted, forced=row.forced)


def assessment(data: Mapping[str, Any], *, acted: bool | None = None, forced: str | None = None) -> RiskAssessment:
    """An assessment from its JSON values."""
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
