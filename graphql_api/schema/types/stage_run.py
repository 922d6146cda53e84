"""Stage runs: the runs of stages within executions."""

from __future__ import annotations

from datetime import datetime

import strawberry

from flexiroaster.model.execution import StageStatus
from flexiroaster.model.viewer import Role
from flexiroaster.service.executions.executions import StageRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.node import Node
from graphql_api.schema.relay import encode
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served
from graphql_api.schema.types.attempt import Attempt
from graphql_api.schema.types.failure import Failure, failure

__all__ = ["StageRun"]


def _id(root: strawberry.Parent[StageRow]) -> strawberry.ID:
    return strawberry.ID(encode("StageRun", root.execution_id, root.stage_id))


def _failure(root: strawberry.Parent[StageRow]) -> Failure | None:
    return failure(root.error)


def _retries(root: strawberry.Parent[StageRow]) -> int:
    return max(0, root.attempt - 1)


async def _attempts(root: strawberry.Parent[StageRow], info: Info) -> list[Attempt]:
    found = await info.context.loaders.attempts.load(root.execution_id)
    return served(found.get(root.stage_id, []))


@fields_require(Role.VIEWER)
@strawberry.type
class StageRun(Node):
    """The run of one stage within an execution, with all its attempts."""

    id: strawberry.ID = strawberry.field(resolver=_id)
    execution_id: str
    stage_id: str
    name: str
    position: int = strawberry.field(description="Position in the topological order, from 0.")
    status: StageStatus
    attempt: int = strawberry.field(description="Number of the last attempt; 0 before the first.")
    retry_count: int = strawberry.field(resolver=_retries)
    attempts: list[Attempt] = strawberry.field(resolver=_attempts)
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None = strawberry.field(description="Seconds of the last attempt; null until it has ended.")
    retry_at: datetime | None = strawberry.field(description="When the next attempt or the next undo starts.")
    output: JSON | None = strawberry.field(description="Its reported figures: rows, columns, bytes and its own values.")
    error: Failure | None = strawberry.field(resolver=_failure)
    is_anomaly: bool

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, StageRow)
