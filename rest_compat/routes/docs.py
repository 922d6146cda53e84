"""The description of the API, and a page that shows it and tries the calls; without anything from elsewhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FOLDER = files("rest_compat") / "docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


@router.get("/openapi.json")
async def get_openapi(request: Request) -> JSONResponse:
    """The OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """The page."""
    prefix = escape(request.app.state.installation.settings.api_prefix)
    page = (_FOLDER / "page.html").read_text("utf-8").replace("{prefix}", prefix)
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return HTMLResponse(page, headers=headers)


@router.get("/docs/page.js")
async def get_script() -> Response:
    """The page's script."""
    return Response((_FOLDER / "page.js").read_text("utf-8"), media_type="text/javascript")


@router.get("/docs/page.css")
async def get_style() -> Response:
    """The page's style."""
    return Response((_FOLDER / "page.css").read_text("utf-8"), media_type="text/css")
