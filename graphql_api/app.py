"""The ASGI application: `/graphql` over HTTP, WebSocket and SSE, and `/health/live`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import strawberry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp

from flexiroaster.config import Settings
from flexiroaster.service.installation import Installation
from flexiroaster.web.request_guard import RequestGuard
from flexiroaster.web.streams import ConnectionLimiter, EventStreams, Streams
from flexiroaster.web.thread_pool import LIMIT_SECONDS, ThreadPool
from graphql_api import client_errors, graphiql
from graphql_api.documents import Documents
from graphql_api.operations import Operations
from graphql_api.transport import requests
from graphql_api.transport.http import GraphQLHTTP
from graphql_api.transport.sse import GraphQLEventStream
from graphql_api.transport.websocket import GraphQLWebSocket, Limits

__all__ = ["PATH", "create_app"]

PATH = "/graphql"


def create_app(
    installation: Installation,
    settings: Settings | None = None,
    schema: strawberry.Schema | None = None,
    *,
    limit: float = LIMIT_SECONDS,
    limits: Limits | None = None,
) -> Starlette:
    """Create the application over an installation; the caller closes the installation.

    `schema` replaces the default schema in tests; `limit` is the time limit of a query or mutation in seconds; `limits`
    are the limits of WebSocket connections.
    """
    settings = settings or installation.settings
    if schema is None:
        from graphql_api import schema as product  # building this schema takes time, which others need not spend

        schema = product.schema
    workers = ThreadPool(limit=limit, interrupt=installation.interrupt)
    streams = Streams(installation)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        for threads in (streams, workers):
            await asyncio.to_thread(threads.close)

    def health(_request: Request) -> Response:
        alive = installation.healthy
        return Response(
            requests.dump_json({"status": "ok" if alive else "failed"}), 200 if alive else 503, media_type=requests.JSON
        )

    documents = Documents(schema, debug=settings.debug)
    operations = Operations(schema, installation, documents, workers, streams)
    limits = limits or Limits()
    limiter = ConnectionLimiter(limits.connections_each)
    event_streams = EventStreams(installation, workers, limiter)
    http = GraphQLHTTP(
        schema,
        installation,
        documents,
        workers,
        page=graphiql.page if settings.debug else None,
        stream=GraphQLEventStream(operations, event_streams),
    )
    socket = GraphQLWebSocket(installation, operations, workers, limiter, limits)
    routes: list[BaseRoute] = [Route(PATH, http), WebSocketRoute(PATH, socket), Route("/health/live", health)]
    if settings.debug:
        routes.append(Mount(graphiql.PREFIX, graphiql.assets()))
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=_middleware(settings),
        exception_handlers={HTTPException: _refused},
    )
    app.state.path = PATH
    app.state.streams = streams  # the server ends them before it waits for their connections to close
    app.state.event_streams = event_streams  # shared with the REST API, so that one limit covers the streams of both
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "last-event-id", "traceparent", "x-request-id"],
        expose_headers=["x-request-id"],
        max_age=600,
    )
    guard = Middleware(RequestGuard, answers=GraphQLErrorResponses(), origins=settings.cors_origins)
    return [guard, cors] if settings.cors_origins else [guard]


def _refused(_request: Request, error: Exception) -> Response:
    """Give Starlette's own HTTP errors, such as an unknown path, the error format of the API."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "Internal error"
    headers = error.headers if isinstance(error, HTTPException) else None
    return requests.single_error(detail, "NOT_FOUND" if status == 404 else "BAD_REQUEST", status, headers=headers)


class GraphQLErrorResponses:
    """The guard's responses as GraphQL errors."""

    def refused(self, message: str, code: str, status: int) -> ASGIApp:
        """Return a response with one error and its code."""
        return requests.single_error(message, code, status)

    def failed(self, error: Exception, request_id: str) -> ASGIApp:
        """Log the error and return a response that shows only its id."""
        return requests.error_response([client_errors.log_internal_error(error, f"in request {request_id}")], 500)
