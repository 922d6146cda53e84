"""A server that does nothing: one Starlette route that answers a small JSON body, behind the same uvicorn."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["app"]


async def _answer(_request: Request) -> Response:
    return JSONResponse({"status": "healthy"})


app = Starlette(routes=[Route("/", _answer)])
