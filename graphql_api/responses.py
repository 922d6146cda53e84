"""How answers are written: JSON by orjson, one shape for every error, compressed where that is worth it."""

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
_COMPRESSION = 3  # a tenth of the time of the default for nearly the same size


def encoded(content: Mapping[str, Any], request: Headers, status: int = 200, media_type: str = JSON) -> Response:
    """The answer to a request, compressed if the client can read that."""
    body = dumps(content)
    headers = {"vary": "accept, accept-encoding", "cache-control": "no-store"}
    if len(body) >= _WORTH_COMPRESSING and "gzip" in request.get("accept-encoding", ""):
        body = gzip.compress(body, _COMPRESSION)
        headers["content-encoding"] = "gzip"
    return Response(body, status, {**headers, "content-type": f"{media_type}; charset=utf-8"})


def dumps(content: Mapping[str, Any]) -> bytes:
    """As JSON; what orjson has no form for (integers beyond 64 bits, lone surrogates) the standard library writes."""
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
    """An answer that is nothing but errors."""
    body = dumps({"errors": errors})
    return Response(body, status, {**(headers or {}), "content-type": f"{media_type}; charset=utf-8"})


def refusal(
    message: str, code: str, status: int, media_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that is one error."""
    return failure([{"message": message, "extensions": {"code": code}}], status, media_type, headers)
