"""GraphQL requests, read from a body or a query string with the types of their parameters checked, and responses."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.web.thread_pool import RefusedError
from graphql_api.client_errors import log_internal_error

__all__ = [
    "GRAPHQL",
    "JSON",
    "GraphQLRequest",
    "authentication_failed",
    "decode_json",
    "dump_json",
    "error_response",
    "from_body",
    "from_query",
    "json_response",
    "read_body",
    "single_error",
]

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"

MAX_NESTING = 64
"""Maximum nesting depth of JSON objects and lists."""

_READ_SECONDS = 30.0
_MAX_PARAMETERS = 10

_MIN_COMPRESSED = 1_000  # bytes
_COMPRESSION = 3  # a tenth of the default level's time for nearly the same size


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """The parameters of GraphQL over HTTP, each of the right type."""

    query: str
    variables: Mapping[str, Any] | None = None
    operation_name: str | None = None
    extensions: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, parameters: object) -> GraphQLRequest:
        """Create a request from decoded parameters. Raises RefusedError if their types are wrong."""
        if isinstance(parameters, list):
            raise RefusedError("The request must be one object; batches are not supported")
        if not isinstance(parameters, dict):
            raise RefusedError("The request must be a JSON object")
        query = parameters.get("query")
        if not isinstance(query, str) or not query.strip():
            raise RefusedError("query is required and must be a string")
        return cls(
            query,
            _optional(parameters, "variables", dict, "an object"),
            _optional(parameters, "operationName", str, "a string") or None,
            _optional(parameters, "extensions", dict, "an object"),
        )


async def read_body(request: Request) -> bytes:
    """Read the whole body; the guard limits its size. Raises RefusedError on a timeout, ClientDisconnect."""
    try:
        async with asyncio.timeout(_READ_SECONDS):
            return await request.body()
    except TimeoutError as error:
        raise RefusedError("The request body did not arrive in time", "TIMEOUT", 408) from error


def from_body(headers: Headers, body: bytes) -> GraphQLRequest:
    """Read the request of a POST. Raises RefusedError.

    The content type must be application/json: a web page of another site cannot send it without a CORS preflight.
    """
    _check_content_type(headers)
    return GraphQLRequest.of(decode_json(body, "The body"))


def from_query(query_string: bytes) -> GraphQLRequest:
    """Read the request of a GET. Raises RefusedError."""
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError as error:
        raise RefusedError("The query string is not valid") from error
    parameters: dict[str, Any] = dict(pairs)
    if len(parameters) < len(pairs):
        raise RefusedError("The query string repeats a parameter")
    for name in ("variables", "extensions"):
        if parameters.get(name):
            parameters[name] = decode_json(parameters[name].encode(), name)
        else:
            parameters.pop(name, None)
    return GraphQLRequest.of(parameters)


def decode_json(data: bytes, what: str) -> object:
    """Decode a JSON value. Raises RefusedError, which names it `what`, if it is invalid or nested too deeply."""
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RefusedError(f"{what} is not valid JSON in UTF-8") from error
    if data.count(b"[") + data.count(b"{") > MAX_NESTING and _too_deep(value):
        raise RefusedError(f"{what} is nested more than {MAX_NESTING} levels deep")
    return value


def _optional(parameters: Mapping[str, Any], name: str, type_: type, described: str) -> Any:  # noqa: ANN401 - of `type_`
    value = parameters.get(name)
    if value is not None and not isinstance(value, type_):
        raise RefusedError(f"{name} must be {described} or null")
    return value


def _check_content_type(headers: Headers) -> None:
    given = headers.getlist("content-type")
    if len(given) > 1:
        raise RefusedError("The request must have exactly one Content-Type header")
    message = Message()
    message["content-type"] = given[0] if given else ""
    if message.get_content_type() != "application/json":
        raise RefusedError("The Content-Type must be application/json", "UNSUPPORTED_MEDIA_TYPE", 415)
    if (message.get_content_charset() or "utf-8") not in {"utf-8", "utf8"}:
        raise RefusedError("The charset must be utf-8", "UNSUPPORTED_MEDIA_TYPE", 415)
    if headers.get("content-encoding", "identity") != "identity":
        raise RefusedError("Content-Encoding is not supported", "UNSUPPORTED_MEDIA_TYPE", 415)


def _too_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_NESTING + 1):
        nodes = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [item for node in nodes for item in node]
        if not level:
            return False
    return True


# --- responses: one format for every error ---


def json_response(content: Mapping[str, Any], request: Headers, status: int = 200, media_type: str = JSON) -> Response:
    """Return the response to a request, compressed if it is large and the client accepts gzip."""
    body = dump_json(content)
    headers = {"vary": "accept, accept-encoding", "cache-control": "no-store"}
    if len(body) >= _MIN_COMPRESSED and "gzip" in request.get("accept-encoding", ""):
        body = gzip.compress(body, _COMPRESSION)
        headers["content-encoding"] = "gzip"
    return Response(body, status, {**headers, "content-type": f"{media_type}; charset=utf-8"})


def dump_json(content: Mapping[str, Any]) -> bytes:
    """Encode as JSON; the standard library writes what orjson cannot (integers beyond 64 bits, lone surrogates)."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_response(
    errors: Sequence[Mapping[str, Any]], status: int, media_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response that contains only errors."""
    body = dump_json({"errors": errors})
    return Response(body, status, {**(headers or {}), "content-type": f"{media_type}; charset=utf-8"})


def single_error(
    message: str, code: str, status: int, media_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with a single error."""
    return error_response([{"message": message, "extensions": {"code": code}}], status, media_type, headers)


def authentication_failed(error: UnauthenticatedError | StoreError, media_type: str = JSON) -> Response:
    """Return the response to a request without a valid token, or one whose token cannot be checked now."""
    if isinstance(error, StoreError):
        return error_response([log_internal_error(error)], 503, media_type)
    return single_error(error.message, "UNAUTHENTICATED", 401, media_type, {"www-authenticate": "Bearer"})
