"""The access log: one line per request with its method, path, status, viewer and duration."""

from __future__ import annotations

import logging
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AccessLog"]

_log = logging.getLogger("flexiroaster.access")


class AccessLog:
    """ASGI middleware that logs requests. It runs after the guard that sets the request id, and disables caching."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and log it at its end, without the query string, which may contain secrets."""
        started, status = perf_counter(), 500

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, heard)
        finally:
            state = scope.get("state", {})
            fields = {
                "request_id": state.get("request_id"),
                "viewer": state.get("viewer"),
                "status": status,
                "milliseconds": round((perf_counter() - started) * 1000, 2),
            }
            quiet = status < 400 and scope["path"].startswith("/health")  # probes arrive every few seconds
            level = logging.DEBUG if quiet else logging.INFO
            _log.log(level, "%s %s %d", scope["method"], scope["path"], status, extra=fields)
