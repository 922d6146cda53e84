"""The ASGI application of the REST API, and the middleware that serves it together with GraphQL in one server."""

from __future__ import annotations

import logging
from html import escape
from importlib.resources import files
from time import perf_counter

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
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
from rest_compat import responses
from rest_compat.prometheus import Exposition
from rest_compat.routes import executions, pipelines, safety, system

__all__ = ["add_rest", "create_app"]

_GRAPHQL = ("/graphql", "/graphiql")

_MIN_COMPRESSED = 1_000  # bytes
_COMPRESSION = 3  # a tenth of the time of the default for nearly the same size

_log = logging.getLogger("flexiroaster.access")


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
    responses.install(app)
    app.add_exception_handler(system.WrongSecretError, system.answer_wrong_secret)
    app.include_router(system.probes, responses=responses.UNEXPECTED)
    app.include_router(system.router, responses=responses.RESPONSES)
    app.include_router(safety.insights_router, responses=responses.RESPONSES)
    app.include_router(_docs_router, prefix=settings.api_prefix)
    for router in (pipelines.router, executions.router, system.airflow_router):
        app.include_router(router, prefix=settings.api_prefix, responses=responses.RESPONSES)
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
    guard = Middleware(RequestGuard, origins=origins, answers=responses.RestErrorResponses(debug=settings.debug))
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
    compressed = Middleware(GZipMiddleware, minimum_size=_MIN_COMPRESSED, compresslevel=_COMPRESSION)
    return [guard, Middleware(AccessLog), *([cors] if origins else []), compressed]


class AccessLog:
    """ASGI middleware that logs requests. It runs after the guard that sets the request id, and disables caching."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and log it at its end, without the query string, which may contain secrets."""
        started, status = perf_counter(), 500

        async def send_logged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_logged)
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


# --- the OpenAPI document, and a page that shows it and sends requests; it loads nothing from other hosts ---

_docs_router = APIRouter(include_in_schema=False)

_FOLDER = files("rest_compat") / "docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


@_docs_router.get("/openapi.json")
async def get_openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@_docs_router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """Return the documentation page."""
    prefix = escape(request.app.state.installation.settings.api_prefix)
    page = (_FOLDER / "page.html").read_text("utf-8").replace("{prefix}", prefix)
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return HTMLResponse(page, headers=headers)


@_docs_router.get("/docs/page.js")
async def get_script() -> Response:
    """Return the script of the page."""
    return Response((_FOLDER / "page.js").read_text("utf-8"), media_type="text/javascript")


@_docs_router.get("/docs/page.css")
async def get_style() -> Response:
    """Return the style sheet of the page."""
    return Response((_FOLDER / "page.css").read_text("utf-8"), media_type="text/css")
