"""The mutation of decisions: override a decision of the safety engine."""

from __future__ import annotations

from typing import Annotated

import strawberry

from flexiroaster.service.safety import decisions
from flexiroaster.service.safety.decisions import Action
from graphql_api.context import Info
from graphql_api.schema.errors import ConflictError, InputError, NotAllowedError, NotFoundError
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.relay import key_of
from graphql_api.schema.served import served
from graphql_api.schema.types.safety import Decision

__all__ = ["DecisionMutations"]


@strawberry.input
class OverrideDecisionInput:
    """The decision to override, the action to take instead, and the reason."""

    id: strawberry.ID
    action: Action
    reason: str = strawberry.field(description="Recorded in the execution's log and with the decision.")


OverrideDecisionPayload = Annotated[
    Decision | NotFoundError | NotAllowedError | ConflictError | InputError,
    strawberry.union("OverrideDecisionPayload", description="The decision with its override, or an error."),
]


def _override(info: Info, input: OverrideDecisionInput) -> OverrideDecisionPayload:  # noqa: A002 - the API's name
    context = info.context
    return served(
        decisions.override(
            context.installation,
            key_of("Decision", input.id),
            input.action,
            input.reason,
            requested_by=context.viewer.name,
        )
    )


@strawberry.type
class DecisionMutations:
    """Decisions of the safety engine: override one."""

    override_decision: OverrideDecisionPayload = mutation(
        _override,
        "Override a decision with another action. Only the newest decision of an execution can be overridden, and only "
        "while the execution's state allows it. Like other commands, the override is stored now and carried out by the "
        "process that runs the execution.",
    )
