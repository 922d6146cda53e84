"""GraphQL over HTTP: queries by GET and POST, mutations by POST, and the status codes of the specification."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

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
from graphql_api import client_errors
from graphql_api.context import Context
from graphql_api.documents import Documents, Operation
from graphql_api.operations import execute_operation
from graphql_api.transport import requests
from graphql_api.transport.requests import GraphQLRequest, from_body, from_query, read_body

__all__ = ["GraphQLHTTP"]


class GraphQLHTTP:
    """The ASGI application behind `/graphql` for HTTP.

    `stream` serves requests that accept `text/event-stream`, `page` those of a browser without a query.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        installation: Installation,
        documents: Documents,
        workers: ThreadPool,
        *,
        page: Callable[[], ASGIApp] | None = None,
        stream: ASGIApp,
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
        if "text/event-stream" in accepted:
            response: ASGIApp = self.stream
        elif self.page is not None and _wants_page(request, accepted):
            response = self.page()
        else:
            response = await self._respond(request, accepted)
        await response(scope, receive, send)

    async def _respond(self, request: Request, accepted: str) -> Response:
        if request.method not in {"GET", "POST"}:
            return requests.single_error("Use GET or POST", "METHOD_NOT_ALLOWED", 405, headers={"allow": "GET, POST"})
        media_type = _negotiate(accepted)
        if media_type is None:
            message = f"The Accept header must allow {requests.GRAPHQL} or {requests.JSON}"
            return requests.single_error(message, "NOT_ACCEPTABLE", 406)
        try:
            body = await read_body(request) if request.method == "POST" else b""
            return await self.workers.run(partial(self._execute, request, body, media_type))
        except RefusedError as refused:
            return _refused(refused, media_type)
        except ClientDisconnect:
            return Response(status_code=400)

    def _execute(
        self, request: Request, body: bytes, media_type: str, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> Response:
        """Process a request in a worker thread, from the bytes of its body to the response."""
        try:
            viewer = authenticate(self.installation, request.scope, credentials_of(request.scope))
        except (UnauthenticatedError, StoreError) as error:
            return requests.authentication_failed(error, media_type)
        is_post = request.method == "POST"
        parsed = from_body(request.headers, body) if is_post else from_query(request.scope["query_string"])
        operation = self.documents.operation(parsed.query, viewer.role, parsed.variables, parsed.operation_name)
        refusal = _refuse_operation(operation.type, is_post, media_type)
        if refusal is not None:
            return refusal
        request_id = request.scope.get("state", {}).get("request_id", "")
        traceparent = ",".join(request.headers.getlist("traceparent"))  # joined, several headers count as malformed
        context = Context(self.installation, viewer, request_id, traceparent)
        try:
            result = execute_operation(self.schema, operation, parsed.variables, context, loop, deadline)
            return _result(result, operation, parsed, request.headers, media_type)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - here the client's input is known, so the log line can mask it
            values = client_errors.client_values(operation.document, parsed.variables)
            return requests.error_response([client_errors.log_internal_error(error, "", values)], 500, media_type)


def _refuse_operation(type_: OperationType, is_post: bool, media_type: str) -> Response | None:
    if type_ is OperationType.SUBSCRIPTION:
        message = "Subscriptions need the WebSocket protocol graphql-transport-ws, or Accept: text/event-stream"
        return requests.single_error(message, "BAD_REQUEST", 400, media_type)
    if type_ is OperationType.MUTATION and not is_post:
        headers = {"allow": "POST"}
        return requests.single_error("Mutations need POST", "METHOD_NOT_ALLOWED", 405, media_type, headers)
    return None


def _result(
    result: ExecutionResult, operation: Operation, parsed: GraphQLRequest, headers: Headers, media_type: str
) -> Response:
    if not result.errors:
        return requests.json_response({"data": result.data}, headers, 200, media_type)
    values = client_errors.client_values(operation.document, parsed.variables)
    errors = [client_errors.error_for_client(error, values) for error in result.errors]
    if result.data is None and all(error.path is None for error in result.errors):  # bad variables, nothing ran
        status = 400 if media_type == requests.GRAPHQL else 200
        return requests.json_response({"errors": errors}, headers, status, media_type)
    return requests.json_response({"errors": errors, "data": result.data}, headers, 200, media_type)


def _refused(refused: RefusedError, media_type: str) -> Response:
    status = 200 if refused.well_formed and media_type == requests.JSON else refused.status
    headers = {"retry-after": "1"} if status == 503 else None
    return requests.error_response(refused.errors, status, media_type, headers)


def _wants_page(request: Request, accepted: str) -> bool:
    return request.method == "GET" and "text/html" in accepted and "query" not in request.query_params


def _negotiate(accepted: str) -> str | None:
    """The best media type that the client accepts; `application/json` without an Accept header."""
    if not accepted.strip():
        return requests.JSON
    weights = dict(map(_parse_weight, accepted.split(",")))
    any_json = max(weights.get("*/*", 0.0), weights.get("application/*", 0.0))
    offers = [
        (weights.get(requests.GRAPHQL, 0.0), requests.GRAPHQL),
        (weights.get(requests.JSON, any_json), requests.JSON),
    ]
    weight, media_type = max(offers, key=lambda offer: offer[0])
    return media_type if weight > 0 else None


def _parse_weight(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0
