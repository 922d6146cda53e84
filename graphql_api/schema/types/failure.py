"""Failures of attempts, stages and executions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import strawberry

from flexiroaster.errors import ErrorClass
from flexiroaster.model.viewer import Role
from graphql_api.permissions import fields_require, requires
from graphql_api.schema.scalars import JSON

__all__ = ["Failure", "failure"]


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
