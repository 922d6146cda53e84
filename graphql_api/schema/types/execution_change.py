"""Changes in the list of executions: the payloads of the subscription to the list."""

from __future__ import annotations

import strawberry

from flexiroaster.model.viewer import Role
from graphql_api.changes import ExecutionChange as Payload
from graphql_api.permissions import fields_require
from graphql_api.schema.types.event_batch import live_execution
from graphql_api.schema.types.execution import Execution

__all__ = ["ExecutionChange"]


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
        return isinstance(value, Payload)
