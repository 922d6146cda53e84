"""Decisions of the safety engine, with their reasons, outcomes and overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.model.viewer import Role
from flexiroaster.safety.risk.assessment import Gate, RiskLevel
from flexiroaster.safety.risk.model import Rung
from flexiroaster.service.safety.decisions import Action, DecisionRow
from flexiroaster.service.safety.risk import AssessmentRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.relay import Node, encode
from graphql_api.schema.scalars import JSON, defined_later

__all__ = ["Decision", "Insight", "InsightAccuracy", "RiskAssessment", "assessment", "stored_assessment"]


@fields_require(Role.VIEWER)
@strawberry.type
class DecisionVerdict:
    """The verdict on one of the six actions. The decision chooses the first admissible action."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str = strawberry.field(description="Why the action is admissible or not.")


@fields_require(Role.VIEWER)
@strawberry.type
class DecisionOverride:
    """A user's request for another action than the decided one."""

    action: Action = strawberry.field(resolver=lambda root: Action(root.action))
    reason: str
    requested_by: str
    at: datetime


def _id(root: strawberry.Parent[DecisionRow]) -> strawberry.ID:
    return strawberry.ID(encode("Decision", root.id))


async def _execution(root: strawberry.Parent[DecisionRow], info: Info) -> object:
    return await info.context.loaders.executions.load(root.execution_id)


def _error_class(root: strawberry.Parent[DecisionRow]) -> ErrorClass | None:
    return None if root.error_class is None else ErrorClass(root.error_class)


def _action(root: strawberry.Parent[DecisionRow]) -> Action:
    return Action(root.action)


def _taken(root: strawberry.Parent[DecisionRow]) -> Action:
    return Action(root.taken)


def _mode(root: strawberry.Parent[DecisionRow]) -> PolicyMode:
    return PolicyMode(root.mode)


def _verdicts(root: strawberry.Parent[DecisionRow]) -> list[DecisionVerdict]:
    return [DecisionVerdict(**{**said, "action": Action(said["action"])}) for said in root.data["verdicts"]]


def _stored(name: str) -> Callable[[DecisionRow], Any]:
    """A resolver that reads a value from the decision's stored JSON."""
    return lambda root: root.data[name]


@fields_require(Role.VIEWER)
@strawberry.type
class Decision(Node):
    """A decision of the safety engine after a stage failed, or after an anomaly while a stage ran. It does not change,
    except that its outcome is added.
    """

    id: strawberry.ID = strawberry.field(resolver=_id)
    decision_id: str = strawberry.field(
        resolver=lambda root: root.id, description="The id in REST and on the command line."
    )
    execution_id: str
    execution: Any = strawberry.field(
        graphql_type=defined_later("Execution", "graphql_api.schema.types.execution"),
        resolver=_execution,
        description="Null once the execution is pruned; its decisions are kept.",
    )
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: ErrorClass | None = strawberry.field(
        resolver=_error_class, description="The class of the stage's failure; null for an anomaly while it ran."
    )
    action: Action = strawberry.field(resolver=_action, description="The chosen action.")
    taken: Action = strawberry.field(
        resolver=_taken, description="The action taken; it can differ from `action` if `mode` only records decisions."
    )
    mode: PolicyMode = strawberry.field(
        resolver=_mode, description="Whether the policy only recorded the decision or also acted on it."
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

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, DecisionRow)


# Risk assessments and insights of the safety engine.
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
