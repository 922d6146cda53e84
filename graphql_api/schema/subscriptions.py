"""Subscriptions: what happens, from any point on, without a gap and without a repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator

import strawberry

from flexiroaster.model.event import Level
from flexiroaster.model.viewer import Role
from graphql_api.context import StreamInfo
from graphql_api.permissions import fields_require
from graphql_api.schema.filters import ExecutionFilterInput, execution_filter
from graphql_api.schema.ids import key_of
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
    """What can be followed live."""

    execution_events: AsyncIterator[EventBatch] = strawberry.subscription(
        resolver=_execution_events,
        description="Everything that happens to an execution, from the cursor `after` on or from its beginning: "
        "history first, then live, each event once and in order. Completes when the execution has ended.",
    )
    logs: AsyncIterator[EventBatch] = strawberry.subscription(
        resolver=_logs,
        description="The same for the events of a level or a more serious one; batches without any are left out.",
    )
    executions: AsyncIterator[ExecutionChange] = strawberry.subscription(
        resolver=_executions,
        description="Changes in the list of executions: first those that match and have not ended (from the cursor "
        "`after` on, those that have ended since as well), then each that matches in its new state. Of states that "
        "follow one another at once the last one counts. Does not complete.",
    )
