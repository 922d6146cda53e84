"""HTTP responses: JSON by orjson, one format for every error, compressed if they are large enough."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response

__all__ = ["GRAPHQL", "JSON", "dumps", "encoded", "failure", "refusal"]

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"

_WORTH_COMPRESSING = 1_000  # bytes
_COMPRESSION = 3  # a tenth of the default level's time for nearly the same size


def encoded(content: Mapping[str, Any], request: Headers, status: int = 200, media_type: str = JSON) -> Response:
    """Return the response to a request, compressed if the client accepts gzip."""
    body = dumps(content)
    headers = {"vary": "accept, accept-encoding", "cache-control": "no-store"}
    if len(body) >= _WORTH_COMPRESSING and "gzip" in request.get("accept-encoding", ""):
        body = gzip.compress(body, _COMPRESSION)
        headers["content-encoding"] = "gzip"
    return Response(body, status, {**headers, "content-type": f"{media_type}; charset=utf-8"})


def dumps(content: Mapping[str, Any]) -> bytes:
    """Encode as JSON; the standard library writes what orjson cannot (integers beyond 64 bits, lone surrogates)."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def failure(
    errors: Sequence[Mapping[str, Any]],
    status: int,
    media_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response that contains only errors."""
    body = dumps({"errors": errors})
    return Response(body, status, {**(headers or {}), "content-type": f"{media_type}; charset=utf-8"})


def refusal(
    message: str, code: str, status: int, media_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with a single error."""
    return failure([{"message": message, "extensions": {"code": code}}], status, media_type, headers)
