"""The mutation of decisions: have something else done than the safety engine decided."""

from __future__ import annotations

from typing import Annotated

import strawberry

from flexiroaster.service import decisions
from flexiroaster.service.decisions import Action
from graphql_api.context import Info
from graphql_api.schema.errors import ConflictError, InputError, NotAllowedError, NotFoundError
from graphql_api.schema.ids import key_of
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.served import served
from graphql_api.schema.types.decision import Decision

__all__ = ["DecisionMutations"]


@strawberry.input
class OverrideDecisionInput:
    """The decision that is meant, what is to be done instead, and why."""

    id: strawberry.ID
    action: Action
    reason: str = strawberry.field(description="It stands in the log of the execution, and beside the decision.")


OverrideDecisionPayload = Annotated[
    Decision | NotFoundError | NotAllowedError | ConflictError | InputError,
    strawberry.union("OverrideDecisionPayload", description="The decision with the override, or why not."),
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
        "Have something else done than was decided: the newest decision of an execution can be overridden, while the "
        "execution's state allows it. It is a command like any other: stored now, carried out by whoever drives.",
    )
