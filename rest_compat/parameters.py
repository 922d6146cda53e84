"""The request parameters that several calls share, with their bounds."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Header, Path, Query, Request
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "TEXT",
    "TRIGGERED_BY",
    "Cursor",
    "EmptyIsAbsent",
    "ExecutionId",
    "Hours",
    "IdempotencyKey",
    "Limit",
    "PipelineId",
    "Skip",
    "Text",
    "Traceparent",
    "TriggeredBy",
]

TEXT: Final = r"^[^\x00]*$"
"""Any text that a database can store."""

TRIGGERED_BY: Final[dict[str, Any]] = {"min_length": 1, "max_length": 255, "pattern": TEXT}
"""The bounds of `triggered_by`: the person or system that started an execution."""

Text = Annotated[str, StringConstraints(pattern=TEXT)]

MOST: Final = 1000
LARGEST: Final = 2**53 - 1
LONGEST_HOURS: Final = 24 * 36_525


class EmptyIsAbsent:
    """Marks a parameter that may be empty, as in `?status=&skip=0`: an empty value counts as absent."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_absent_if_empty, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        return {"anyOf": [*described.get("anyOf", [described]), {"type": "string", "const": ""}]}


def _absent_if_empty(value: object) -> object:
    return None if value == "" else value


PipelineId = Annotated[Text, Path(description="The id of the pipeline.")]
ExecutionId = Annotated[Text, Path(description="The id of the execution.")]
Skip = Annotated[int, Query(ge=0, le=LARGEST, description="The number of rows to skip; `cursor` is cheaper.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="The maximum number of rows.")]
Hours = Annotated[float, Query(gt=0, le=LONGEST_HOURS, allow_inf_nan=False, description="How many hours to look back.")]
Cursor = Annotated[
    Text | None,
    EmptyIsAbsent(),
    Query(description="The `cursor` of the previous page: start after it. It takes precedence over `skip`."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]*$",
        description="The same key with the same request returns the same execution and never starts a second one.",
    ),
]


def _traceparent(
    request: Request,
    traceparent: Annotated[
        str | None,
        Header(description="W3C trace context that the execution's trace joins. A malformed value is ignored."),
    ] = None,
) -> str | None:
    if traceparent is None:
        return None
    return ",".join(request.headers.getlist("traceparent"))  # joined headers are malformed, and so ignored


Traceparent = Annotated[str | None, Depends(_traceparent)]
TriggeredBy = Annotated[str, Query(**TRIGGERED_BY, description="The person or system that starts the execution.")]
