"""The ASGI application of the REST API, and the middleware that serves it together with GraphQL in one server."""

from __future__ import annotations

import logging
from time import perf_counter

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flexiroaster import __version__
from flexiroaster.config import Settings
from flexiroaster.service.installation import Installation
from flexiroaster.web.request_guard import RequestGuard
from flexiroaster.web.streams import EventStreams, Streams
from rest_compat import failures
from rest_compat.routes import executions, pipelines, safety, system
from rest_compat.routes.system import Exposition

__all__ = ["AccessLog", "RestDispatcher", "add_rest", "create_app"]


# The access log: one line per request with its method, path, status, viewer and duration.
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


_GRAPHQL = ("/graphql", "/graphiql")

_WORTH_COMPRESSING = 1_000  # bytes
_COMPRESSION = 3  # a tenth of the time of the default for nearly the same size


def add_rest(app: Starlette, installation: Installation) -> None:
    """Add the REST API to an application that serves GraphQL."""
    app.add_middleware(RestDispatcher, rest=create_app(installation, app.state.streams, app.state.event_streams))


def create_app(installation: Installation, streams: Streams, event_streams: EventStreams) -> FastAPI:
    """Create the application over an installation and the live streams of its process; it closes neither.

    `event_streams` counts the event streams of REST together with those of GraphQL.
    """
    settings = installation.settings
    app = FastAPI(
        title=system.APP,
        description=system.DESCRIPTION,
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(settings),
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.installation, app.state.streams, app.state.open_streams = installation, streams, set()
    app.state.event_streams = event_streams
    app.state.exposition = Exposition(installation, streams, app.state.open_streams)
    failures.install(app)
    app.add_exception_handler(system.WrongSecretError, system.answer_wrong_secret)
    app.include_router(system.probes, responses=failures.UNEXPECTED)
    app.include_router(system.router, responses=failures.RESPONSES)
    app.include_router(safety.insights_router, responses=failures.RESPONSES)
    app.include_router(system.docs_router, prefix=settings.api_prefix)
    routers = (
        pipelines.router,
        executions.starts_router,
        executions.router,
        safety.decisions_router,
        executions.events_router,
        system.airflow_router,
    )
    for router in routers:
        app.include_router(router, prefix=settings.api_prefix, responses=failures.RESPONSES)
    return app


class RestDispatcher:
    """ASGI middleware that sends every HTTP request outside GraphQL to `rest`, past the middleware behind this one."""

    def __init__(self, app: ASGIApp, rest: ASGIApp) -> None:
        self.app = app
        self.rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch a request to one of the two applications."""
        own = scope["type"] != "http" or f"/{scope['path'].split('/')[1]}" in _GRAPHQL
        await (self.app if own else self.rest)(scope, receive, send)


def _middleware(settings: Settings) -> list[Middleware]:
    origins = settings.cors_origins
    guard = Middleware(RequestGuard, origins=origins, answers=failures.Answers(debug=settings.debug))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            "authorization",
            "content-type",
            "idempotency-key",
            "if-none-match",
            "last-event-id",
            "traceparent",
            "x-request-id",
        ],
        expose_headers=["etag", "x-request-id"],
        max_age=600,
    )
    compressed = Middleware(GZipMiddleware, minimum_size=_WORTH_COMPRESSING, compresslevel=_COMPRESSION)
    return [guard, Middleware(AccessLog), *([cors] if origins else []), compressed]
