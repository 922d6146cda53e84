"""The OpenAPI document, and a page that shows it and sends requests; the page loads nothing from other hosts."""

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
    """Return the OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    """Return the documentation page."""
    prefix = escape(request.app.state.installation.settings.api_prefix)
    page = (_FOLDER / "page.html").read_text("utf-8").replace("{prefix}", prefix)
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return HTMLResponse(page, headers=headers)


@router.get("/docs/page.js")
async def get_script() -> Response:
    """Return the script of the page."""
    return Response((_FOLDER / "page.js").read_text("utf-8"), media_type="text/javascript")


@router.get("/docs/page.css")
async def get_style() -> Response:
    """Return the style sheet of the page."""
    return Response((_FOLDER / "page.css").read_text("utf-8"), media_type="text/css")
