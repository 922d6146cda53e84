"""The ASGI application of the REST API, and the middleware that serves it together with GraphQL in one server."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from flexiroaster import __version__
from flexiroaster.config import Settings
from flexiroaster.service.installation import Installation
from flexiroaster.web.request_guard import Guard
from flexiroaster.web.streams import Streams
from graphql_api.event_streams import EventStreams
from rest_compat import failures
from rest_compat.access_log import AccessLog
from rest_compat.exposition import Exposition
from rest_compat.routes import airflow, docs, events, executions, insights, pipelines, safety, starts, system

__all__ = ["Beside", "add_rest", "create_app"]

_GRAPHQL = ("/graphql", "/graphiql")

_WORTH_COMPRESSING = 1_000  # bytes
_COMPRESSION = 3  # a tenth of the time of the default for nearly the same size


def add_rest(app: Starlette, installation: Installation) -> None:
    """Add the REST API to an application that serves GraphQL."""
    app.add_middleware(Beside, rest=create_app(installation, app.state.streams, app.state.event_streams))


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
    app.add_exception_handler(airflow.WrongSecretError, airflow.answer_wrong_secret)
    app.include_router(system.probes, responses=failures.UNEXPECTED)
    app.include_router(system.router, responses=failures.RESPONSES)
    app.include_router(insights.router, responses=failures.RESPONSES)
    app.include_router(docs.router, prefix=settings.api_prefix)
    for each in (pipelines, starts, executions, safety, events, airflow):
        app.include_router(each.router, prefix=settings.api_prefix, responses=failures.RESPONSES)
    return app


class Beside:
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
    guard = Middleware(Guard, origins=origins, answers=failures.Answers(debug=settings.debug))
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
