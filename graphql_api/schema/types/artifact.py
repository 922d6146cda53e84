"""Artifacts: the output tables of stages."""

from __future__ import annotations

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import artifacts
from graphql_api.context import Info
from graphql_api.permissions import fields_require, requires
from graphql_api.schema.scalars import JSON, BigInt
from graphql_api.schema.served import served

__all__ = ["Artifact"]


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
