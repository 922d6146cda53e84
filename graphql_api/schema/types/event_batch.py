"""Batches of events: the payloads of the subscriptions to one execution."""

from __future__ import annotations

from typing import Protocol

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.web.feeds import EventBatch as Payload
from graphql_api.context import Info
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
    """Return the execution of a payload; its large columns are read only if requested."""
    row = root.execution
    if HEAVY & asked(info):
        row = await info.context.loaders.executions.load(row.id) or row
    return served(row)


@fields_require(Role.VIEWER)
@strawberry.type
class EventBatch:
    """Events of one execution that were committed together, or a part of its history."""

    events: list[Event] = strawberry.field(description="Events in order; empty if only `caughtUp` has changed.")
    cursor: str = strawberry.field(description="Pass it as `after` to resume after these events.")
    caught_up: bool = strawberry.field(description="Whether the history is complete and all further events are live.")
    execution: Execution = strawberry.field(
        resolver=live_execution, description="The execution when these events were read, or slightly later."
    )

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, Payload)
