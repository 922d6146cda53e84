"""Error responses, from the exceptions that cause them, and what the OpenAPI document says about responses.

Client errors are `{"detail": ...}`; server errors have another shape.
"""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp

from flexiroaster.errors import (
    BlockedError,
    ConflictError,
    DefinitionError,
    FlexiRoasterError,
    InputError,
    NotAllowedError,
    NotFoundError,
    Problem,
    StoreError,
    UnauthenticatedError,
)
from flexiroaster.model.event import utc_now
from flexiroaster.web.thread_pool import RefusedError
from rest_compat.models import Answer

__all__ = ["RESPONSES", "UNEXPECTED", "Failure", "Responses", "RestErrorResponses", "install", "links", "refusals"]


class Refusal(Answer):
    """The reason why a request was refused."""

    detail: str


class InvalidItem(Answer):
    """One problem of a request: its location, a message and a stable type."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(Answer):
    """All problems of a request."""

    detail: list[InvalidItem]


class Failure(Answer):
    """A server error."""

    success: Literal[False] = False
    error: str
    detail: str = Field(description="The error id to look up in the server log; with DEBUG, the traceback.")
    timestamp: datetime


Responses = dict[int | str, dict[str, Any]]
"""Status codes with the model and description of each response, for the OpenAPI document."""


def refusals(descriptions: dict[int, str]) -> Responses:
    """Return the responses that refuse a request, from the description of each status code."""
    return {status: {"model": Refusal, "description": text} for status, text in descriptions.items()}


def links(parameter: str, source: str, *operations: str) -> dict[str, Any]:
    """Return the links to the calls that accept an id from a response; people and the contract tests follow them."""
    return {"links": {name: {"operationId": name, "parameters": {parameter: source}} for name in operations}}


UNEXPECTED: Responses = {500: {"model": Failure, "description": "An unexpected failure."}}
"""The error response that every call may return."""

RESPONSES: Responses = {
    **refusals(
        {
            400: "The body cannot be read.",
            401: "The token is missing or invalid.",
            403: "The token's role is not sufficient, or the page's origin is not allowed.",
        }
    ),
    422: {"model": Invalid, "description": "The request is invalid; the response lists every problem."},
    503: {"model": Failure, "description": "The database cannot be reached."},
    **UNEXPECTED,
}
"""The error responses of every call that requires a token."""

_STATUS: dict[type[FlexiRoasterError], int] = {
    NotFoundError: 404,
    NotAllowedError: 400,
    ConflictError: 409,
    BlockedError: 403,
}

_METHODS = ("GET", "POST", "PUT", "DELETE")

_PATH_PART = re.compile(r"\[(\d+)\]|([^.\[]+)")

_log = logging.getLogger(__name__)


class RestErrorResponses:
    """The responses that the request guard sends by itself."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def refused(self, message: str, _code: str, status: int) -> ASGIApp:
        """Return the response to a rejected request."""
        return _refusal(message, status)

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """Log an unexpected error once, under an id, and return a response that names the id."""
        error_id = secrets.token_hex(8)
        extra = {"error_id": error_id, "request_id": request_id}
        _log.error("Internal error %s in request %s", error_id, request_id, exc_info=error, extra=extra)
        traced = "".join(traceback.format_exception(error))
        return _failure(500, "Internal server error", traced if self._debug else f"See the log for error {error_id}")


def install(app: FastAPI) -> None:
    """Register the handlers that turn exceptions into responses."""
    app.add_exception_handler(FlexiRoasterError, _raised)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RefusedError, _overloaded)


async def _raised(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DefinitionError):
        return _invalid([_problem_item(problem) for problem in error.problems])
    if isinstance(error, InputError):
        argument = error.details.get("argument")
        loc: list[str | int] = ["query"] if argument is None else ["query", str(argument)]
        return _invalid([InvalidItem(loc=loc, msg=error.message, type="value_error")])
    if isinstance(error, UnauthenticatedError):
        return _refusal(error.message, 401, {"www-authenticate": "Bearer"})
    if isinstance(error, StoreError):
        request_id = request.scope.get("state", {}).get("request_id", "")
        _log.error("The database failed request %s: %s", request_id, error.message, extra={"request_id": request_id})
        return _failure(503, "Service unavailable", "The database cannot be reached")
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return _refusal(error.message, status)
    raise error  # unexpected: no request should end with another error


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refused = error if isinstance(error, HTTPException) else HTTPException(500)
    headers = refused.headers
    if refused.status_code == 405:  # the router considers only the first route with the path
        headers = {"allow": ", ".join(filter(partial(_is_allowed, request), _METHODS))}
    return _refusal(refused.detail, refused.status_code, headers)


async def _overloaded(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503 when the live events cannot serve another stream."""
    return _failure(503, "Service unavailable", str(error))


def _is_allowed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    problems: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    # without `input`: it may be secret, and the client knows what it sent
    return _invalid([InvalidItem(loc=list(item["loc"]), msg=item["msg"], type=item["type"]) for item in problems])


def _problem_item(problem: Problem) -> InvalidItem:
    """Convert a problem of a definition: `stages[2].config.by` becomes body, stages, 2, config, by."""
    parts = [int(number) if number else name for number, name in _PATH_PART.findall(problem.path)]
    return InvalidItem(loc=["body", *parts], msg=problem.message, type=problem.code)


def _refusal(detail: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Refusal(detail=detail).model_dump(), status, headers)


def _invalid(items: list[InvalidItem]) -> JSONResponse:
    return JSONResponse(Invalid(detail=items).model_dump(), 422)


def _failure(status: int, error: str, detail: str) -> JSONResponse:
    body = Failure(error=error, detail=detail, timestamp=utc_now())
    return JSONResponse(body.model_dump(mode="json"), status)
