"""GraphQL over HTTP: queries by GET and POST, mutations by POST, and the status codes of the specification."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import strawberry
from graphql import ExecutionResult, OperationType
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.service.installation import Installation
from flexiroaster.web.authentication import authenticate, credentials_of
from flexiroaster.web.thread_pool import RefusedError, ThreadPool
from graphql_api import failures
from graphql_api.context import Context
from graphql_api.documents import Documents, Operation
from graphql_api.operations import execute_operation
from graphql_api.transport import requests
from graphql_api.transport.requests import GraphQLRequest, from_body, from_query, read_body

__all__ = ["GraphQLHTTP"]

_METHODS = {"allow": "GET, POST"}


class GraphQLHTTP:
    """The ASGI application behind `/graphql` for HTTP; `stream` serves requests that accept `text/event-stream`."""

    def __init__(
        self,
        schema: strawberry.Schema,
        installation: Installation,
        documents: Documents,
        workers: ThreadPool,
        *,
        page: Callable[[], ASGIApp] | None = None,
        stream: ASGIApp | None = None,
    ) -> None:
        self.schema = schema
        self.installation = installation
        self.documents = documents
        self.workers = workers
        self.page = page
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        accepted = request.headers.get("accept", "")
        if self.stream is not None and "text/event-stream" in accepted:
            answer: ASGIApp = self.stream
        elif self.page is not None and _wants_page(request, accepted):
            answer = self.page()
        else:
            answer = await self._answered(request, accepted)
        await answer(scope, receive, send)

    async def _answered(self, request: Request, accepted: str) -> Response:
        if request.method not in {"GET", "POST"}:
            return requests.refusal("Use GET or POST", "METHOD_NOT_ALLOWED", 405, headers=_METHODS)
        media_type = _negotiated(accepted)
        if media_type is None:
            offered = f"The Accept header must allow {requests.GRAPHQL} or {requests.JSON}"
            return requests.refusal(offered, "NOT_ACCEPTABLE", 406)
        try:
            body = await read_body(request) if request.method == "POST" else b""
            return await self.workers.run(partial(self._answer, request, body, media_type))
        except RefusedError as refused:
            return _refused(refused, media_type)
        except ClientDisconnect:
            return Response(status_code=400)

    def _answer(
        self, request: Request, body: bytes, media_type: str, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> Response:
        """Process a request in a worker thread, from the bytes of its body to the response."""
        try:
            viewer = authenticate(self.installation, request.scope, credentials_of(request.scope))
        except UnauthenticatedError as error:
            challenge = {"www-authenticate": "Bearer"}
            return requests.refusal(error.message, "UNAUTHENTICATED", 401, media_type, challenge)
        except StoreError as error:
            return requests.failure([failures.log_internal_error(error)], 503, media_type)
        posted = request.method == "POST"
        asked = from_body(request.headers, body) if posted else from_query(request.scope["query_string"])
        operation = self.documents.operation(asked.query, viewer.role, asked.variables, asked.operation_name)
        refusal = _wrong_way(operation, posted, media_type)
        if refusal is not None:
            return refusal
        request_id = request.scope.get("state", {}).get("request_id", "")
        traceparent = ",".join(request.headers.getlist("traceparent"))  # joined, several headers count as malformed
        context = Context(self.installation, viewer, request_id, traceparent)
        try:
            result = execute_operation(self.schema, operation, asked.variables, context, loop, deadline)
            return _result(result, operation, asked, request.headers, media_type)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - here the client's input is known, so the log line can mask it
            spoken = failures.client_values(operation.document, asked.variables)
            return requests.failure([failures.log_internal_error(error, "", spoken)], 500, media_type)


def _wrong_way(operation: Operation, posted: bool, media_type: str) -> Response | None:
    if operation.type is OperationType.SUBSCRIPTION:
        message = "Subscriptions need the WebSocket protocol graphql-transport-ws, or Accept: text/event-stream"
        return requests.refusal(message, "BAD_REQUEST", 400, media_type)
    if operation.type is OperationType.MUTATION and not posted:
        headers = {"allow": "POST"}
        return requests.refusal("Mutations need POST", "METHOD_NOT_ALLOWED", 405, media_type, headers)
    return None


def _result(
    result: ExecutionResult, operation: Operation, asked: GraphQLRequest, headers: Headers, media_type: str
) -> Response:
    if not result.errors:
        return requests.encoded({"data": result.data}, headers, 200, media_type)
    spoken = failures.client_values(operation.document, asked.variables)
    errors = [failures.error_for_client(error, spoken) for error in result.errors]
    if result.data is None and all(error.path is None for error in result.errors):  # bad variables, nothing ran
        status = 400 if media_type == requests.GRAPHQL else 200
        return requests.encoded({"errors": errors}, headers, status, media_type)
    content: dict[str, Any] = {"errors": errors, "data": result.data}
    return requests.encoded(content, headers, 200, media_type)


def _refused(refused: RefusedError, media_type: str) -> Response:
    errors = refused.errors
    status = 200 if refused.well_formed and media_type == requests.JSON else refused.status
    headers = {"retry-after": "1"} if status == 503 else None
    return requests.failure(errors, status, media_type, headers)


def _wants_page(request: Request, accepted: str) -> bool:
    return request.method == "GET" and "text/html" in accepted and "query" not in request.query_params


def _negotiated(accepted: str) -> str | None:
    """The best media type that the client accepts; `application/json` without an Accept header."""
    if not accepted.strip():
        return requests.JSON
    weights = dict(map(_weighted, accepted.split(",")))
    any_json = max(weights.get("*/*", 0.0), weights.get("application/*", 0.0))
    offers = [
        (weights.get(requests.GRAPHQL, 0.0), requests.GRAPHQL),
        (weights.get(requests.JSON, any_json), requests.JSON),
    ]
    weight, media_type = max(offers, key=lambda offer: offer[0])
    return media_type if weight > 0 else None


def _weighted(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0
