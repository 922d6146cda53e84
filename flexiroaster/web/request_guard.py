"""The request guard in front of every route: request ids, the origin check and the body size limit."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexiroaster.web.authentication import origin_allowed

__all__ = ["MAX_BODY", "Answers", "RequestGuard"]

MAX_BODY = 1_000_000
"""Maximum size of a request body in bytes."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class Answers(Protocol):
    """The responses of an API to requests that do not pass the guard, in that API's error format."""

    def refused(self, message: str, code: str, status: int) -> ASGIApp:
        """Return the response to a refused request."""

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """Log an unexpected error once, and return a response that masks it."""


class RequestGuard:
    """ASGI middleware that checks requests, and logs and masks unexpected errors."""

    def __init__(self, app: ASGIApp, answers: Answers, origins: Collection[str] = (), max_body: int = MAX_BODY) -> None:
        self.app = app
        self.answers = answers
        self.origins = frozenset(origins)
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and not origin_allowed(scope, self.origins):
            await send({"type": "websocket.close", "code": 1008, "reason": "This origin is not allowed"})
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        body, answer = _Body(receive, self.max_body), _ResponseSender(send, request_id)

        async def unless_too_large(message: Message) -> None:
            if answer.started or not body.too_large:
                await answer(message)

        try:
            refused = self._refusal(scope)
            await (refused or self.app)(scope, body, unless_too_large)
        except Exception as error:  # noqa: BLE001 - the last resort: every unexpected error is logged here
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
    """A request body that raises once it exceeds the limit; `too_large` stays set if a framework hides that error."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.too_large = False
        self._receive = receive
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body") or b"")
        if self._left < 0:
            self.too_large = True
            raise _TooLargeError
        return message


class _ResponseSender:
    """The response, with the request id added; `started` says whether its headers were sent."""

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
    """The request body exceeds the limit."""


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
