"""Decisions of the safety engine, with their reasons, outcomes and overrides."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.model.viewer import Role
from flexiroaster.service.safety.decisions import Action, DecisionRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.node import Node
from graphql_api.schema.relay import encode
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served

if TYPE_CHECKING:
    from graphql_api.schema.types.execution import Execution

__all__ = ["Decision"]

_EXECUTION = strawberry.lazy("graphql_api.schema.types.execution")

strawberry.enum(Action, name="DecisionAction")  # `Action` alone is too vague in the schema


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


async def _execution(root: strawberry.Parent[DecisionRow], info: Info) -> Annotated[Execution, _EXECUTION] | None:
    return served(await info.context.loaders.executions.load(root.execution_id))


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
    execution: Annotated[Execution, _EXECUTION] | None = strawberry.field(
        resolver=_execution, description="Null once the execution is pruned; its decisions are kept."
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
