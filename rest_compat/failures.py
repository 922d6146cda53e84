"""Error responses: `{"detail": ...}` for client errors, and another shape for server errors."""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
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
    StoreError,
    UnauthenticatedError,
)
from flexiroaster.model.event import utc_now
from flexiroaster.web.thread_pool import RefusedError
from rest_compat.models.base import Failure, Invalid, InvalidItem, Refusal, Responses

__all__ = ["RESPONSES", "UNEXPECTED", "Answers", "install"]

UNEXPECTED: Responses = {
    500: {"model": Failure, "description": "An unexpected failure."},
}
"""The error response that every call may return."""

RESPONSES: Responses = {
    400: {"model": Refusal, "description": "The body cannot be read."},
    401: {"model": Refusal, "description": "The token is missing or invalid."},
    403: {"model": Refusal, "description": "The token's role is not sufficient, or the page's origin is not allowed."},
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

_PART = re.compile(r"\[(\d+)\]|([^.\[]+)")

_log = logging.getLogger(__name__)


class Answers:
    """The responses that the request guard sends by itself."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def refused(self, message: str, _code: str, status: int) -> ASGIApp:
        """Return the response to a rejected request."""
        return JSONResponse(Refusal(detail=message).model_dump(), status)

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
        return _invalid([_item(problem.path, problem.message, problem.code) for problem in error.problems])
    if isinstance(error, InputError):
        argument = error.details.get("argument")
        loc: list[str | int] = ["query"] if argument is None else ["query", str(argument)]
        return _invalid([InvalidItem(loc=loc, msg=error.message, type="value_error")])
    if isinstance(error, UnauthenticatedError):
        return JSONResponse(Refusal(detail=error.message).model_dump(), 401, {"www-authenticate": "Bearer"})
    if isinstance(error, StoreError):
        request_id = request.scope.get("state", {}).get("request_id", "")
        _log.error("The database failed request %s: %s", request_id, error.message, extra={"request_id": request_id})
        return _failure(503, "Service unavailable", "The database cannot be reached")
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return JSONResponse(Refusal(detail=error.message).model_dump(), status)
    raise error  # unexpected: no request should end with another error


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refused = error if isinstance(error, HTTPException) else HTTPException(500)
    headers = refused.headers
    if refused.status_code == 405:  # the router considers only the first route with the path
        headers = {"allow": ", ".join(filter(partial(_is_allowed, request), _METHODS))}
    return JSONResponse(Refusal(detail=refused.detail).model_dump(), refused.status_code, headers)


async def _overloaded(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503 when the live events cannot serve another stream."""
    return _failure(503, "Service unavailable", str(error))


def _is_allowed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    found: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    # without `input`: it may be secret, and the client knows what it sent
    return _invalid([InvalidItem(loc=list(item["loc"]), msg=item["msg"], type=item["type"]) for item in found])


def _item(path: str, message: str, code: str) -> InvalidItem:
    """Convert a problem of a definition: `stages[2].config.by` becomes body, stages, 2, config, by."""
    parts = [int(number) if number else name for number, name in _PART.findall(path)]
    return InvalidItem(loc=["body", *parts], msg=message, type=code)


def _invalid(items: list[InvalidItem]) -> JSONResponse:
    return JSONResponse(Invalid(detail=items).model_dump(), 422)


def _failure(status: int, error: str, detail: str) -> JSONResponse:
    body = Failure(error=error, detail=detail, timestamp=utc_now())
    return JSONResponse(body.model_dump(mode="json"), status)
