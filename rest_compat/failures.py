"""Errors in the contract's shapes: `{"detail": ...}` for what the client can mend, one other for what it cannot."""

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
from graphql_api.documents import RefusedError
from rest_compat.models.base import Failure, Invalid, InvalidItem, Refusal, Responses

__all__ = ["RESPONSES", "UNEXPECTED", "Answers", "install"]

UNEXPECTED: Responses = {
    500: {"model": Failure, "description": "An unexpected failure."},
}
"""The error that every call may answer with."""

RESPONSES: Responses = {
    400: {"model": Refusal, "description": "The body cannot be read."},
    401: {"model": Refusal, "description": "No token, or one that is not in force."},
    403: {"model": Refusal, "description": "The token's role does not suffice, or the page's origin is not allowed."},
    422: {"model": Invalid, "description": "The request does not hold; everything that is wrong with it."},
    503: {"model": Failure, "description": "The database cannot be reached."},
    **UNEXPECTED,
}
"""The errors of every call that needs a token."""

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
    """What the guard in front answers with by itself."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def refused(self, message: str, _code: str, status: int) -> ASGIApp:
        """A request that does not get in."""
        return JSONResponse(Refusal(detail=message).model_dump(), status)

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """What nobody expected: logged once, with an id that the client is told."""
        error_id = secrets.token_hex(8)
        extra = {"error_id": error_id, "request_id": request_id}
        _log.error("Internal error %s in request %s", error_id, request_id, exc_info=error, extra=extra)
        traced = "".join(traceback.format_exception(error))
        return _failure(500, "Internal server error", traced if self._debug else f"The log tells more: {error_id}")


def install(app: FastAPI) -> None:
    """Answer what the service raises."""
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
    raise error  # no request is expected to end in any other


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refused = error if isinstance(error, HTTPException) else HTTPException(500)
    headers = refused.headers
    if refused.status_code == 405:  # the router knows only of the first route that has the path
        headers = {"allow": ", ".join(filter(partial(_is_allowed, request), _METHODS))}
    return JSONResponse(Refusal(detail=refused.detail).model_dump(), refused.status_code, headers)


async def _overloaded(_request: Request, error: Exception) -> JSONResponse:
    """Live events have no room for one more stream, or no time."""
    return _failure(503, "Service unavailable", str(error))


def _is_allowed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    found: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    # without `input`: what somebody sent may be secret, and is known to them
    return _invalid([InvalidItem(loc=list(item["loc"]), msg=item["msg"], type=item["type"]) for item in found])


def _item(path: str, message: str, code: str) -> InvalidItem:
    """A problem of a definition: `stages[2].config.by` is at body, stages, 2, config, by."""
    parts = [int(number) if number else name for number, name in _PART.findall(path)]
    return InvalidItem(loc=["body", *parts], msg=message, type=code)


def _invalid(items: list[InvalidItem]) -> JSONResponse:
    return JSONResponse(Invalid(detail=items).model_dump(), 422)


def _failure(status: int, error: str, detail: str) -> JSONResponse:
    body = Failure(error=error, detail=detail, timestamp=utc_now())
    return JSONResponse(body.model_dump(mode="json"), status)
