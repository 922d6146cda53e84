"""Decisions: what the safety engine chose to do next, why, and what people had done instead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.model.viewer import Role
from flexiroaster.service.decisions import Action, DecisionRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.ids import encode
from graphql_api.schema.node import Node
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served

if TYPE_CHECKING:
    from graphql_api.schema.types.execution import Execution

__all__ = ["Decision"]

_EXECUTION = strawberry.lazy("graphql_api.schema.types.execution")

strawberry.enum(Action, name="DecisionAction")  # `Action` alone says too little among all other types


@fields_require(Role.VIEWER)
@strawberry.type
class DecisionVerdict:
    """What was said of one of the six actions; the first that is admissible is chosen."""

    action: Action
    admissible: bool
    chosen: bool
    reason: str = strawberry.field(description="Why it is admissible, or why not.")


@fields_require(Role.VIEWER)
@strawberry.type
class DecisionOverride:
    """Somebody had something else done than was decided."""

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
    """The resolver of what stands in the JSON of the decision."""
    return lambda root: root.data[name]


@fields_require(Role.VIEWER)
@strawberry.type
class Decision(Node):
    """What was decided when a stage had failed, or when something was abnormal while it ran. It never changes, but that
    what came of it is added.
    """

    id: strawberry.ID = strawberry.field(resolver=_id)
    decision_id: str = strawberry.field(resolver=lambda root: root.id, description="What the other faces call its id.")
    execution_id: str
    execution: Annotated[Execution, _EXECUTION] | None = strawberry.field(
        resolver=_execution, description="Null once it is pruned; its decisions are kept."
    )
    pipeline_id: str
    stage_id: str | None
    attempt: int | None
    at: datetime
    error_class: ErrorClass | None = strawberry.field(
        resolver=_error_class, description="What the stage failed with; null: an anomaly while it ran."
    )
    action: Action = strawberry.field(resolver=_action, description="What was chosen.")
    taken: Action = strawberry.field(
        resolver=_taken, description="What was done: another where the policy only records, see `mode`."
    )
    mode: PolicyMode = strawberry.field(resolver=_mode, description="What was to become of the decision.")
    reason: str = strawberry.field(resolver=_stored("reason"))
    explanation: str = strawberry.field(
        resolver=_stored("explanation"), description="Why this action and none that comes before it, in one sentence."
    )
    verdicts: list[DecisionVerdict] = strawberry.field(
        resolver=_verdicts, description="Of all six actions, in the order of preference."
    )
    situation: JSON = strawberry.field(resolver=_stored("situation"), description="What was known, by name.")
    policy_version: str = strawberry.field(resolver=_stored("policy_version"))
    model_version: str | None = strawberry.field(
        resolver=_stored("model_version"), description="Of the model that said the risk."
    )
    propensity: float = strawberry.field(
        resolver=_stored("propensity"), description="The probability with which the policy chose this action."
    )
    outcome: str | None = strawberry.field(
        description="Of a retry `succeeded`, `failed` or `stopped`, else how the execution ended; null until the "
        "execution has ended and the engine has learned from it."
    )
    outcome_at: datetime | None
    overrides: list[DecisionOverride] = strawberry.field(description="What people had done instead, oldest first.")

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is served as this type."""
        return isinstance(value, DecisionRow)
