"""The dependencies of routes: the call with its viewer, and the parameters that several routes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Header, HTTPException, Path, Query, Request
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from flexiroaster.model.paging import Page, Window
from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.admin import audit
from flexiroaster.service.installation import Installation
from flexiroaster.web.authentication import authenticate, credentials_of

__all__ = [
    "MAX_NUMBER",
    "TEXT",
    "TRIGGERED_BY",
    "Call",
    "EmptyIsAbsent",
    "ExecutionId",
    "Hours",
    "IdempotencyKey",
    "Limit",
    "Operating",
    "PageRequest",
    "PipelineId",
    "Reading",
    "RequestedPage",
    "Text",
    "Traceparent",
    "TriggeredBy",
    "installation_of",
    "operating",
    "request_id_of",
    "viewer_of",
]


T = TypeVar("T")


# --- the call and its viewer ---


@dataclass(frozen=True, slots=True)
class Call:
    """The context of one request: its installation, viewer and id."""

    installation: Installation
    viewer: Viewer
    request_id: str

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


def _requires(role: Role) -> Callable[[Request], Call]:
    """Return the dependency that requires a role; without `async`, it runs in a thread."""

    def call(request: Request) -> Call:
        viewer = viewer_of(request)
        if not viewer.role.covers(role):
            raise HTTPException(403, f"This call requires the role {role}; the token has the role {viewer.role}")
        return Call(installation_of(request), viewer, request_id_of(request))

    return call


operating = _requires(Role.OPERATOR)

Reading = Annotated[Call, Depends(_requires(Role.VIEWER))]
"""A call that requires the role viewer."""

Operating = Annotated[Call, Depends(operating)]
"""A call that requires the role operator."""


# --- parameters and their bounds ---

TEXT: Final = r"^[^\x00]*$"
"""Any text that a database can store."""

TRIGGERED_BY: Final[dict[str, Any]] = {"min_length": 1, "max_length": 255, "pattern": TEXT}
"""The bounds of `triggered_by`: the person or system that started an execution."""

MAX_NUMBER: Final = 2**53 - 1
"""The largest integer that JavaScript reads exactly."""

_MAX_ROWS: Final = 1000
_MAX_HOURS: Final = 24 * 36_525


class EmptyIsAbsent:
    """Marks a parameter that may be empty, as in `?status=&skip=0`: an empty value counts as absent."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_absent_if_empty, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        return {"anyOf": [*described.get("anyOf", [described]), {"type": "string", "const": ""}]}


def _absent_if_empty(value: object) -> object:
    return None if value == "" else value


Text = Annotated[str, StringConstraints(pattern=TEXT)]
PipelineId = Annotated[Text, Path(description="The id of the pipeline.")]
ExecutionId = Annotated[Text, Path(description="The id of the execution.")]
Skip = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="The number of rows to skip; `cursor` is cheaper.")]
Limit = Annotated[int, Query(ge=1, le=_MAX_ROWS, description="The maximum number of rows.")]
Hours = Annotated[float, Query(gt=0, le=_MAX_HOURS, allow_inf_nan=False, description="How many hours to look back.")]
Cursor = Annotated[
    Text | None,
    EmptyIsAbsent(),
    Query(description="The `cursor` of the previous page: start after it. It takes precedence over `skip`."),
]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The requested page of a list: by offset, or after the cursor of the previous page."""

    skip: int
    limit: int
    cursor: str | None

    def read(
        self,
        by_offset: Callable[[int, int], tuple[list[T], int]],
        by_window: Callable[[Window], Page[T]],
        count: Callable[[], int],
        cursor_of: Callable[[T], str],
    ) -> tuple[list[T], int, str | None]:
        """Return the rows of the page, the number of all matches, and the cursor of the next page, if there is one."""
        if self.cursor is None:
            rows, total = by_offset(self.skip, self.limit)
            has_next = self.skip + len(rows) < total
        else:
            page = by_window(Window(first=self.limit, after=self.cursor))
            rows, has_next, total = list(page.items), page.has_next, count()
        return rows, total, cursor_of(rows[-1]) if rows and has_next else None


async def _page_request(skip: Skip = 0, limit: Limit = 100, cursor: Cursor = None) -> PageRequest:
    return PageRequest(skip, limit, cursor)


RequestedPage = Annotated[PageRequest, Depends(_page_request)]
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
