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
from graphql_api.permissions import object_type
from graphql_api.schema.execution import LARGE_COLUMNS, Event, Execution
from graphql_api.schema.inputs import ExecutionFilterInput, execution_filter
from graphql_api.schema.relay import key_of, selected_field_names
from graphql_api.schema.scalars import as_schema_type, resolved_from

__all__ = ["Subscription"]


class _WithExecution(Protocol):
    @property
    def execution(self) -> ExecutionRow: ...


async def _execution(root: strawberry.Parent[_WithExecution], info: Info) -> Execution:
    """The execution of a payload; its large columns are read only if requested."""
    row = root.execution
    if LARGE_COLUMNS & selected_field_names(info):
        row = await info.context.loaders.executions.load(row.id) or row
    return as_schema_type(row)


@object_type(Role.VIEWER)
class EventBatch:
    """Events of one execution that were committed together, or a part of its history."""

    events: list[Event] = strawberry.field(description="Events in order; empty if only `caughtUp` has changed.")
    cursor: str = strawberry.field(description="Pass it as `after` to resume after these events.")
    caught_up: bool = strawberry.field(description="Whether the history is complete and all further events are live.")
    execution: Execution = strawberry.field(
        resolver=_execution, description="The execution when these events were read, or slightly later."
    )

    is_type_of = resolved_from(feeds.EventBatch)


@object_type(Role.VIEWER)
class ExecutionChange:
    """An execution that has changed state, or one that was in the list when the subscription started."""

    execution: Execution = strawberry.field(resolver=_execution)
    cursor: str = strawberry.field(
        description="Pass it as `after` to resume from here. Some executions may be sent again. None is missed, except "
        "one that had already ended and was rolled back in the meantime."
    )

    is_type_of = resolved_from(feeds.ExecutionChange)


async def _execution_events(
    info: StreamInfo, execution_id: strawberry.ID, after: str | None = None
) -> AsyncIterator[EventBatch]:
    context = info.context
    return as_schema_type(await context.streams.events(key_of("Execution", execution_id), context.resume or after))


async def _logs(
    info: StreamInfo, execution_id: strawberry.ID, after: str | None = None, level: Level = Level.INFO
) -> AsyncIterator[EventBatch]:
    context = info.context
    return as_schema_type(
        await context.streams.events(key_of("Execution", execution_id), context.resume or after, level)
    )


async def _executions(
    info: StreamInfo,
    filter: ExecutionFilterInput | None = None,
    after: str | None = None,
) -> AsyncIterator[ExecutionChange]:
    context = info.context
    return as_schema_type(await context.streams.executions(execution_filter(filter), context.resume or after))


@object_type(Role.VIEWER)
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
