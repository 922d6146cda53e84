"""The safety engine: its decisions, risk assessments and insights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.model.viewer import Role
from flexiroaster.safety.policy import Gate, RiskLevel
from flexiroaster.safety.risk.model import Rung
from flexiroaster.service.safety.decisions import Action, DecisionRow
from flexiroaster.service.safety.risk import AssessmentRow
from graphql_api.context import Info
from graphql_api.permissions import object_type
from graphql_api.schema.relay import Node, global_id_field
from graphql_api.schema.scalars import JSON, lazy_type, resolved_from

__all__ = ["Decision", "Insight", "InsightAccuracy", "RiskAssessment", "assessment", "stored_assessment"]


@object_type(Role.VIEWER)
class DecisionVerdict:
    """The verdict on one of the six actions. The decision chooses the first admissible action."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str = strawberry.field(description="Why the action is admissible or not.")


@object_type(Role.VIEWER)
class DecisionOverride:
    """A user's request for another action than the decided one."""

    action: Action
    reason: str
    requested_by: str
    at: datetime


async def _execution(root: strawberry.Parent[DecisionRow], info: Info) -> object:
    return await info.context.loaders.executions.load(root.execution_id)


def _verdicts(root: strawberry.Parent[DecisionRow]) -> list[DecisionVerdict]:
    return [DecisionVerdict(**verdict) for verdict in root.data["verdicts"]]


def _stored(name: str) -> Callable[[DecisionRow], Any]:
    """A resolver that reads a value from the decision's stored JSON."""
    return lambda root: root.data[name]


@object_type(Role.VIEWER)
class Decision(Node):
    """A decision of the safety engine after a stage failed, or after an anomaly while a stage ran. It does not change,
    except that its outcome is added.
    """

    id: strawberry.ID = global_id_field("Decision", "id")
    decision_id: str = strawberry.field(
        resolver=lambda root: root.id, description="The id in REST and on the command line."
    )
    execution_id: str
    execution: Any = strawberry.field(
        graphql_type=lazy_type("Execution", "graphql_api.schema.execution"),
        resolver=_execution,
        description="Null once the execution is pruned; its decisions are kept.",
    )
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: ErrorClass | None = strawberry.field(
        description="The class of the stage's failure; null for an anomaly while it ran."
    )
    action: Action = strawberry.field(description="The chosen action.")
    taken: Action = strawberry.field(
        description="The action taken; it can differ from `action` if `mode` only records decisions."
    )
    mode: PolicyMode = strawberry.field(
        description="Whether the policy only recorded the decision or also acted on it."
    )
    reason: str = strawberry.field(resolver=_stored("reason"))
    explanation: str = strawberry.field(
        resolver=_stored("explanation"),
        description="One sentence on why this action was chosen instead of those before it in the order of preference.",
    )
    verdicts: list[DecisionVerdict] = strawberry.field(
        resolver=_verdicts, description="The verdicts on all six actions, in the order of preference."
    )
    situation: JSON = strawberry.field(
        resolver=_stored("situation"), description="The facts that the decision was based on, by name."
    )
    policy_version: str = strawberry.field(resolver=_stored("policy_version"))
    model_version: str | None = strawberry.field(
        resolver=_stored("model_version"), description="Version of the model that estimated the risk."
    )
    propensity: float = strawberry.field(
        resolver=_stored("propensity"), description="The probability with which the policy chose this action."
    )
    outcome: str | None = strawberry.field(
        description="For a retry `succeeded`, `failed` or `stopped`, otherwise how the execution ended. Null until the "
        "execution has ended and the safety engine has learned from it."
    )
    outcome_at: datetime | None
    overrides: list[DecisionOverride] = strawberry.field(description="Overrides by users, oldest first.")

    is_type_of = resolved_from(DecisionRow)


# --- risk assessments ---


@object_type(Role.VIEWER)
class RiskFactor:
    """One of the six factors of the risk score: the measured value and its contribution (`weight` times `score`)."""

    name: str
    value: float | None
    score: float
    weight: float
    contribution: float
    description: str


@object_type(Role.VIEWER)
class RiskContribution:
    """The contribution of one feature group to the probability, and the fact behind it."""

    name: str
    amount: float
    fact: str


@object_type(Role.VIEWER)
class RiskExplanation:
    """The explanation of the probability: `base` plus all contributions is `total`."""

    base: float
    total: float
    contributions: list[RiskContribution]
    text: str


@object_type(Role.VIEWER)
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


def stored_assessment(row: AssessmentRow) -> RiskAssessment:
    """Convert the stored assessment of an execution."""
    return assessment(row.data, acted=row.acted, forced=row.forced)


def assessment(data: Mapping[str, Any], *, acted: bool | None = None, forced: str | None = None) -> RiskAssessment:
    """Create an assessment from its JSON values."""
    probability, explanation = data["probability"], data["explanation"]
    return RiskAssessment(
        pipeline_id=data["pipeline_id"],
        probability=probability["probability"],
        low=probability["low"],
        high=probability["high"],
        rung=Rung(probability["rung"]),
        reason=probability["reason"],
        no_history_yet=data["no_history_yet"],
        risk_score=data["risk_score"],
        factors=[RiskFactor(**factor) for factor in data["factors"]],
        risk_level=RiskLevel(data["risk_level"]),
        gate=Gate(data["gate"]),
        recommendations=data["recommendations"],
        explanation=RiskExplanation(
            base=explanation["base"],
            total=explanation["total"],
            contributions=[
                RiskContribution(name=c["name"], amount=c["amount"], fact=c["fact"])
                for c in explanation["contributions"]
            ],
            text=explanation["text"],
        ),
        model_version=data["model_version"],
        features=JSON(data["features"]),
        acted=acted,
        forced=forced,
    )


# --- insights ---


@object_type(Role.VIEWER)
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


@object_type(Role.VIEWER)
class InsightAccuracy:
    """Alarms of one type in ended runs, and how many of them were false because the run completed anyway."""

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None = strawberry.field(
        description="Share of the raised alarms that were false, 0 to 1; null if none was raised."
    )
