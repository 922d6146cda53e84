"""GraphiQL for development: `make graphiql` fetches its published files once, and this package serves them."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["FILES", "PREFIX", "VERSION", "assets", "folder", "page"]

PREFIX = "/graphiql"
VERSION = "4.1.2"

FILES = {
    "graphiql.min.js": "text/javascript",
    "graphiql.min.css": "text/css",
    "react.production.min.js": "text/javascript",
    "react-dom.production.min.js": "text/javascript",
}
"""The files that GraphiQL needs, with their media types."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # the editor sets line sizes with style attributes
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "vary": "accept",
}


def folder() -> Path:
    """Return the folder of the files: in the user's cache, by version."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "flexiroaster" / f"graphiql-{VERSION}"


def page() -> Response:
    """Return GraphiQL's page, or a page that says how to install its files."""
    complete = all((folder() / name).is_file() for name in FILES)
    name, status = ("page.html", 200) if complete else ("missing.html", 503)
    return HTMLResponse(_own(name), status, _HEADERS)


def assets() -> Starlette:
    """Return the application that serves the files, and only these, below `PREFIX`."""
    return Starlette(routes=[Route("/start.js", _start), Route("/{name}", _asset)])


def _start(_request: Request) -> Response:
    return Response(_own("start.js"), headers={**_HEADERS, "content-type": "text/javascript; charset=utf-8"})


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    path = folder() / name
    if name not in FILES or not path.is_file():
        return PlainTextResponse("File not found", 404)
    return FileResponse(path, media_type=FILES[name], headers={**_HEADERS, "cache-control": "max-age=86400"})


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
