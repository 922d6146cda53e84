"""Stage runs: the runs of stages within executions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import strawberry

from flexiroaster.errors import ErrorClass
from flexiroaster.model.execution import StageStatus
from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import artifacts, events
from flexiroaster.service.executions.events import AttemptOutcome
from flexiroaster.service.executions.executions import StageRow
from graphql_api.context import Info
from graphql_api.permissions import fields_require, requires
from graphql_api.schema.relay import Node, encode
from graphql_api.schema.scalars import JSON, BigInt, served

__all__ = ["Artifact", "Attempt", "Failure", "StageRun", "failure"]


# Failures of attempts, stages and executions.
@fields_require(Role.VIEWER)
@strawberry.type
class Failure:
    """The failure of an attempt, a stage or an execution."""

    message: str
    error_class: ErrorClass = strawberry.field(description="The class of the failure; it decides about retries.")
    type: str | None = strawberry.field(description="Type of the exception, if there was one.")
    stage_id: str | None = strawberry.field(description="The stage whose failure failed the execution.")
    details: JSON | None
    traceback: str | None = strawberry.field(
        metadata=requires(Role.OPERATOR), description="The end of the traceback; it may contain lines of user code."
    )


def failure(error: Mapping[str, Any] | None) -> Failure | None:
    """Convert a row's `error` to a failure."""
    if error is None:
        return None
    return Failure(
        message=error["message"],
        error_class=ErrorClass(error.get("class", ErrorClass.UNKNOWN)),
        type=error.get("type"),
        stage_id=error.get("stage_id"),
        details=JSON(error["details"]) if error.get("details") else None,
        traceback=error.get("traceback") or None,
    )


# Attempts of a stage.
def _attempt_failure(root: strawberry.Parent[events.Attempt]) -> Failure | None:
    return failure(root.error)


@fields_require(Role.VIEWER)
@strawberry.type
class Attempt:
    """One attempt to run a stage."""

    number: int = strawberry.field(description="Number among all attempts of the stage, from 1.")
    attempt: int = strawberry.field(
        description="The stage's attempt count. It restarts when the execution is retried, and interrupted attempts do "
        "not count."
    )
    started_at: datetime
    ended_at: datetime | None
    duration: float | None = strawberry.field(description="Duration in seconds; null until the attempt has ended.")
    outcome: AttemptOutcome
    error: Failure | None = strawberry.field(resolver=_attempt_failure)
    retry_delay: float | None = strawberry.field(description="Seconds until the next attempt, if one was scheduled.")


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


# Artifacts: the output tables of stages.
@fields_require(Role.VIEWER)
@strawberry.type
class Column:
    """A column of an artifact's table."""

    name: str
    type: str = strawberry.field(description="The polars data type, such as `Int64`.")


@fields_require(Role.OPERATOR)
@strawberry.type
class TablePreview:
    """The first rows of an artifact's table, with cells as JSON values.

    Times are ISO 8601, durations are seconds, decimals and integers beyond 2^53 are strings, bytes are base64, and NaN
    is null.
    """

    columns: list[Column]
    rows: JSON = strawberry.field(description="A list of rows; each row is a list of cells in column order.")
    total_rows: BigInt
    cut: bool = strawberry.field(description="Whether long texts or lists in cells are truncated.")


def _preview(root: strawberry.Parent[artifacts.Artifact], info: Info, rows: int = 20) -> TablePreview:
    return served(artifacts.preview(info.context.installation, root.execution_id, root.stage_id, rows))


@fields_require(Role.VIEWER)
@strawberry.type
class Artifact:
    """The output table of a completed stage."""

    execution_id: str
    stage_id: str
    rows: BigInt
    columns: list[Column]
    bytes: BigInt = strawberry.field(description="Size of its own file; shared columns are in other files.")
    checksum: str
    preview: TablePreview = strawberry.field(
        resolver=_preview, metadata=requires(Role.OPERATOR), description="The first rows of the table, at most 1000."
    )
