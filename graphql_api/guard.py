"""What stands in front of every route: an id for each request, whose page may send it, and how large it may be."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphql_api import failures, responses
from graphql_api.security import origin_allowed

__all__ = ["MAX_BODY", "Answers", "Guard"]

MAX_BODY = 1_000_000
"""Bytes of a request's body."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class Answers(Protocol):
    """What a face answers where a request gets no further than the guard, in the shape of its errors."""

    def refused(self, message: str, code: str, status: int) -> ASGIApp:
        """The request may not pass."""

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """Nobody expected this error: log it once, and mask it."""


class GraphQLAnswers:
    """Errors as GraphQL has them."""

    def refused(self, message: str, code: str, status: int) -> ASGIApp:
        """One error, with its code."""
        return responses.refusal(message, code, status)

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """An error that says nothing but its id."""
        return responses.failure([failures.internal(error, f"in request {request_id}")], 500)


class Guard:
    """ASGI middleware. Errors have the one shape of all errors; what nobody expected is logged once and masked."""

    def __init__(
        self, app: ASGIApp, origins: Collection[str] = (), max_body: int = MAX_BODY, answers: Answers | None = None
    ) -> None:
        self.app = app
        self.answers = answers or GraphQLAnswers()
        self.origins = frozenset(origins)
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and not origin_allowed(scope, self.origins):
            await send({"type": "websocket.close", "code": 1008, "reason": "This origin is not allowed"})
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        body, answer = _Body(receive, self.max_body), _Answer(send, request_id)

        async def unless_too_large(message: Message) -> None:
            if answer.started or not body.too_large:
                await answer(message)

        try:
            refused = self._refusal(scope)
            await (refused or self.app)(scope, body, unless_too_large)
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, it is logged here
            if not body.too_large:
                failed = self.answers.failed(error, request_id)
                if not answer.started:
                    await failed(scope, receive, answer)
        if body.too_large and not answer.started:
            await self._too_large()(scope, receive, answer)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if not origin_allowed(scope, self.origins):
            return self.answers.refused("Pages of this origin may not send requests; see CORS_ORIGINS", "ORIGIN", 403)
        lengths = Headers(scope=scope).getlist("content-length")
        if any(length.isdecimal() and int(length[:20]) > self.max_body for length in lengths):
            return self._too_large()
        return None

    def _too_large(self) -> ASGIApp:
        return self.answers.refused(f"The body is larger than {self.max_body} bytes", "BODY_TOO_LARGE", 413)


class _Body:
    """A request's body, ended with an error when it turns out longer than it may be; frameworks may hide that error."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.too_large = False
        self._receive = receive
        self._left = most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body") or b"")
        if self._left < 0:
            self.too_large = True
            raise _TooLargeError
        return message


class _Answer:
    """What is sent, with the request's id; whether anything was."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.started = False
        self._send = send
        self._request_id = request_id

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)


class _TooLargeError(Exception):
    """More has arrived than may."""


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
