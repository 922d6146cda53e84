"""What stands in front of every route: an id for each request, whose page may send it, and how large it may be."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphql_api import failures, responses
from graphql_api.security import origin_allowed

__all__ = ["MAX_BODY", "Guard"]

MAX_BODY = 1_000_000
"""Bytes of a request's body."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class Guard:
    """ASGI middleware. Errors have the one shape of all errors; what nobody expected is logged once and masked."""

    def __init__(self, app: ASGIApp, origins: Collection[str] = (), max_body: int = MAX_BODY) -> None:
        self.app = app
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
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            refused = self._refusal(scope)
            await (refused or self.app)(scope, self._counted(receive), send_with_id)
        except _TooLargeError:
            await self._too_large()(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, it is logged here
            body = failures.internal(error, f"in request {request_id}")
            if not started:
                await responses.failure([body], 500)(scope, receive, send_with_id)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if not origin_allowed(scope, self.origins):
            return responses.refusal("Pages of this origin may not send requests; see CORS_ORIGINS", "ORIGIN", 403)
        lengths = Headers(scope=scope).getlist("content-length")
        if any(length.isdecimal() and int(length[:20]) > self.max_body for length in lengths):
            return self._too_large()
        return None

    def _too_large(self) -> ASGIApp:
        return responses.refusal(f"The body is larger than {self.max_body} bytes", "BODY_TOO_LARGE", 413)

    def _counted(self, receive: Receive) -> Receive:
        """The same body, ended with an error when it turns out longer than it may be."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body") or b"")
            if total > self.max_body:
                raise _TooLargeError
            return message

        return counted


class _TooLargeError(Exception):
    """More has arrived than may."""


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
