"""Batches of events: the payloads of a live view of one execution."""

from __future__ import annotations

from typing import Protocol

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import ExecutionRow
from graphql_api.context import Info
from graphql_api.feed import EventBatch as Payload
from graphql_api.permissions import fields_require
from graphql_api.schema.pages import HEAVY, asked
from graphql_api.schema.served import served
from graphql_api.schema.types.event import Event
from graphql_api.schema.types.execution import Execution

__all__ = ["EventBatch", "live_execution"]


class _WithExecution(Protocol):
    @property
    def execution(self) -> ExecutionRow: ...


async def live_execution(root: strawberry.Parent[_WithExecution], info: Info) -> Execution:
    """The execution of a payload; what may be large of it is read where somebody asks for it."""
    row = root.execution
    if HEAVY & asked(info):
        row = await info.context.loaders.executions.load(row.id) or row
    return served(row)


@fields_require(Role.VIEWER)
@strawberry.type
class EventBatch:
    """Events of one execution that were committed together, or are history that is sent together."""

    events: list[Event] = strawberry.field(description="In order. Empty where the only news is that it has caught up.")
    cursor: str = strawberry.field(description="Give it as `after` to go on behind these events.")
    caught_up: bool = strawberry.field(description="Whether the history is over: what follows is live.")
    execution: Execution = strawberry.field(
        resolver=live_execution, description="As it was when these events were read, or a little newer."
    )

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is served as this type."""
        return isinstance(value, Payload)
