"""The request context of handlers: the installation, the authenticated viewer and the request id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Path, Query, Request
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.admin import audit
from flexiroaster.service.installation import Installation
from flexiroaster.service.pipelines import Revision
from flexiroaster.web.authentication import authenticate, credentials_of

__all__ = [
    "EXECUTION",
    "PIPELINE",
    "TEXT",
    "TRIGGERED_BY",
    "Call",
    "Cursor",
    "EmptyIsAbsent",
    "ExecutionId",
    "Hours",
    "IdempotencyKey",
    "Limit",
    "Operating",
    "PipelineId",
    "Reading",
    "Skip",
    "Text",
    "Traceparent",
    "TriggeredBy",
    "headers",
    "installation_of",
    "matches",
    "of",
    "operating",
    "request_id_of",
    "viewer_of",
]


class Call:
    """The context of one request: its installation, viewer and id."""

    __slots__ = ("installation", "request_id", "viewer")

    def __init__(self, installation: Installation, viewer: Viewer, request_id: str) -> None:
        self.installation = installation
        self.viewer = viewer
        self.request_id = request_id

    @contextmanager
    def audited(self, action: str, subject: str | None, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Record the requested action of the block and its outcome in the audit log, even if it is refused."""
        with audit.recorded(
            self.installation,
            viewer=self.viewer,
            action=action,
            subject=subject,
            arguments=arguments,
            request_id=self.request_id,
        ):
            yield


def installation_of(request: Request) -> Installation:
    """Return the installation that the application serves."""
    installation: Installation = request.app.state.installation
    return installation


def request_id_of(request: Request) -> str:
    """Return the request id, as in the response header and the log."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def viewer_of(request: Request) -> Viewer:
    """Authenticate the request and return its viewer; sometimes reads the database.

    Raises UnauthenticatedError, StoreError.
    """
    viewer = authenticate(installation_of(request), request.scope, credentials_of(request.scope))
    request.scope.setdefault("state", {})["viewer"] = viewer.name
    return viewer


def reading(request: Request) -> Call:
    """Require the role viewer and return the call; a dependency without `async` runs in a thread."""
    return _call(request, Role.VIEWER)


def operating(request: Request) -> Call:
    """Require the role operator and return the call."""
    return _call(request, Role.OPERATOR)


def _call(request: Request, needed: Role) -> Call:
    viewer = viewer_of(request)
    if not viewer.role.covers(needed):
        raise HTTPException(403, f"This call requires the role {needed}; the token has the role {viewer.role}")
    return Call(installation_of(request), viewer, request_id_of(request))


Reading = Annotated[Call, Depends(reading)]
"""A call that requires the role viewer."""

Operating = Annotated[Call, Depends(operating)]
"""A call that requires the role operator."""


# The request parameters that several calls share, with their bounds.
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


# ETags for conditional reads of definitions (RFC 9110): a tag changes with its pipeline.
def of(revision: Revision) -> str:
    """Return the current tag of a pipeline. A pipeline that is deleted and created again gets different tags."""
    changed = revision.updated_at or revision.created_at
    return f'W/"{revision.revision}-{changed.timestamp():.6f}"'


def matches(given: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match: given` matches the tag: it lists the tag, or is `*`."""
    if given is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in given.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def headers(tag: str) -> dict[str, str]:
    """Return the headers of a response with this tag: clients may cache it, but must revalidate it each time."""
    return {"etag": tag, "cache-control": "private, no-cache"}


# OpenAPI links: the calls that accept an id from a response. People follow them, and so do the contract tests.
def _links(parameter: str, source: str, *operations: str) -> dict[str, Any]:
    return {"links": {name: {"operationId": name, "parameters": {parameter: source}} for name in operations}}


PIPELINE = _links(
    "pipeline_id",
    "$response.body#/id",
    "get_pipeline",
    "update_pipeline",
    "activate_pipeline",
    "deactivate_pipeline",
    "execute_pipeline",
    "delete_pipeline",
)
"""The links of a response with a pipeline."""

EXECUTION = _links(
    "execution_id",
    "$response.body#/execution_id",
    "get_execution",
    "get_logs",
    "list_decisions",
    "follow_events",
    "pause_execution",
    "resume_execution",
    "stop_execution",
)
"""The links of a response to a start."""
