"""Artifacts: the tables that stages gave."""

from __future__ import annotations

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service import artifacts
from graphql_api.context import Info
from graphql_api.permissions import fields_require, requires
from graphql_api.schema.scalars import JSON, BigInt
from graphql_api.schema.served import served

__all__ = ["Artifact"]


@fields_require(Role.VIEWER)
@strawberry.type
class Column:
    """A column of a table."""

    name: str
    type: str = strawberry.field(description="In the words of polars, such as `Int64`.")


@fields_require(Role.OPERATOR)
@strawberry.type
class TablePreview:
    """The first rows of a table; cells are JSON values.

    Times are ISO 8601, durations seconds, decimals and integers beyond 2^53 text, bytes base64, NaN null.
    """

    columns: list[Column]
    rows: JSON = strawberry.field(description="A list of rows, each a list of cells in the order of the columns.")
    total_rows: BigInt
    cut: bool = strawberry.field(description="Whether texts or lists within cells were too long to be shown whole.")


def _preview(root: strawberry.Parent[artifacts.Artifact], info: Info, rows: int = 20) -> TablePreview:
    return served(artifacts.preview(info.context.installation, root.execution_id, root.stage_id, rows))


@fields_require(Role.VIEWER)
@strawberry.type
class Artifact:
    """The table of a completed stage."""

    execution_id: str
    stage_id: str
    rows: BigInt
    columns: list[Column]
    bytes: BigInt = strawberry.field(description="Of its own file; columns that it shares stand in others.")
    checksum: str
    preview: TablePreview = strawberry.field(
        resolver=_preview, metadata=requires(Role.OPERATOR), description="Its first rows, 1000 at most."
    )
