"""The subscriptions of the schema: events and changes of executions, from any cursor, without gaps or repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator

import strawberry

from flexiroaster.model.event import Level
from flexiroaster.model.viewer import Role
from graphql_api.context import StreamInfo
from graphql_api.permissions import fields_require
from graphql_api.schema.filters import ExecutionFilterInput, execution_filter
from graphql_api.schema.relay import key_of
from graphql_api.schema.served import served
from graphql_api.schema.types.event_batch import EventBatch
from graphql_api.schema.types.execution_change import ExecutionChange

__all__ = ["Subscription"]


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
