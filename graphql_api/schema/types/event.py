"""Events of an execution."""

from __future__ import annotations

from datetime import datetime

import strawberry

from flexiroaster.model import event
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require
from graphql_api.schema.node import Node
from graphql_api.schema.relay import encode
from graphql_api.schema.scalars import JSON, BigInt

__all__ = ["Event"]


def _id(root: strawberry.Parent[event.Event]) -> strawberry.ID:
    return strawberry.ID(encode("Event", root.execution_id, str(root.seq)))


@fields_require(Role.VIEWER)
@strawberry.type
class Event(Node):
    """One event in an execution's history, such as a state change or a log line of a stage."""

    id: strawberry.ID = strawberry.field(resolver=_id)
    seq: BigInt = strawberry.field(description="Sequence number within the execution, from 1 without gaps.")
    at: datetime
    type: EventType
    level: Level
    execution_id: str
    stage_id: str | None
    attempt: int | None
    message: str = strawberry.field(description="One human-readable line.")
    data: JSON | None

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is resolved as this type."""
        return isinstance(value, event.Event)
