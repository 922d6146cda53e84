"""Changes in the list of executions: the payloads of a live view of the list."""

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
    """An execution that is in another state than before, or one that a view of the list begins with."""

    execution: Execution = strawberry.field(resolver=live_execution)
    cursor: str = strawberry.field(
        description="Give it as `after` to go on from here. Some executions may then come "
        "again; none is left out but one that ended before and was rolled back in the meantime."
    )

    @classmethod
    def is_type_of(cls, value: object, _info: object) -> bool:
        """Whether a value is served as this type."""
        return isinstance(value, Payload)
