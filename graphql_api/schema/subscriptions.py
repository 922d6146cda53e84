"""The subscriptions of the schema: events and changes of executions, from any cursor, without gaps or repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import strawberry

from flexiroaster.model.event import Level
from flexiroaster.model.viewer import Role
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.web import feeds
from graphql_api.context import Info, StreamInfo
from graphql_api.permissions import fields_require
from graphql_api.schema.inputs import ExecutionFilterInput, execution_filter
from graphql_api.schema.relay import HEAVY, asked, key_of
from graphql_api.schema.scalars import served
from graphql_api.schema.types.execution import Event, Execution

__all__ = ["EventBatch", "ExecutionChange", "Subscription", "live_execution"]


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
        return isinstance(value, feeds.EventBatch)


@fields_require(Role.VIEWER)
@strawberry.type
class ExecutionChange:
    """An execution that has changed state, or one that was in the list when the subscription started."""

    execution: Execution = strawberry.field(resolver=live_execution)
    cursor: str = strawberry.field(
        description="Pass it as `after` to resume from here. Some executions may be sent again. None is missed, except "
        "one that had already ended and was rolled back in the meantime."
    )

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, feeds.ExecutionChange)


async def _execution_events(
    info: StreamInfo, execution_id: strawberry.ID, after: str | None = None
) -> AsyncIterator[EventBatch]:
    context = info.context
    return served(await context.streams.events(key_of("Execution", execution_id), context.resume or after))


async def _logs(
    info: StreamInfo, execution_id: strawberry.ID, after: str | None = None, level: Level = Level.INFO
) -> AsyncIterator[EventBatch]:
    context = info.context
    return served(await context.streams.events(key_of("Execution", execution_id), context.resume or after, level))


async def _executions(
    info: StreamInfo,
    filter: ExecutionFilterInput | None = None,  # noqa: A002 - the API's name
    after: str | None = None,
) -> AsyncIterator[ExecutionChange]:
    context = info.context
    return served(await context.streams.executions(execution_filter(filter), context.resume or after))


@fields_require(Role.VIEWER)
@strawberry.type
class Subscription:
    """Live updates of executions. A subscription resumes from a cursor after a lost connection."""

    execution_events: AsyncIterator[EventBatch] = strawberry.subscription(
        resolver=_execution_events,
        description="All events of an execution, after the cursor `after` or from its beginning: first the history, "
        "then live events, each once and in order. Completes when the execution has ended.",
    )
    logs: AsyncIterator[EventBatch] = strawberry.subscription(
        resolver=_logs,
        description="Like `executionEvents`, but only events of at least this level; batches without any are omitted.",
    )
    executions: AsyncIterator[ExecutionChange] = strawberry.subscription(
        resolver=_executions,
        description="Changes in the list of executions: first the live executions that match (with the cursor `after`, "
        "also those that have ended since), then every match that changes state. If an execution changes state several "
        "times in quick succession, only its last state is sent. Does not complete.",
    )
