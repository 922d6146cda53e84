"""GraphiQL for development: `make graphiql` fetches its published files once, and this package serves them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

__all__ = ["FILES", "PREFIX", "assets", "folder", "install", "page"]

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
    return HTMLResponse(_read_page_file(name), status, _HEADERS)


def assets() -> Starlette:
    """Return the application that serves the files, and only these, below `PREFIX`."""
    return Starlette(routes=[Route("/start.js", _start), Route("/{name}", _asset)])


def _start(_request: Request) -> Response:
    return Response(_read_page_file("start.js"), headers={**_HEADERS, "content-type": "text/javascript; charset=utf-8"})


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    path = folder() / name
    if name not in FILES or not path.is_file():
        return PlainTextResponse("File not found", 404)
    return FileResponse(path, media_type=FILES[name], headers={**_HEADERS, "cache-control": "max-age=86400"})


def _read_page_file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


# --- `python -m graphql_api.graphiql`: fetch the published files with npm into the cache folder ---

PACKAGES = {
    f"graphiql@{VERSION}": "6aa9cb6d82e656d38b72991264f41545889881e8dc23059199be3b94fff2ad05",
    "react@18.3.1": "8d9bed01a672e7eaf387942d781ad47c6a43089a30a0306060f9fd5ac7870347",
    "react-dom@18.3.1": "031d4427a99f2f3f6cac18bbbf308594a67e4f47d10f4896fdec446505b040e0",
}
"""The npm packages, with the SHA-256 of their archives."""


def install(target: Path | None = None) -> Path:
    """Install the files into `target`, by default the server's folder, unless they are complete; return the folder.

    Raises RuntimeError if npm is missing or fails, or if an archive has the wrong digest.
    """
    target = target or folder()
    if all((target / name).is_file() for name in FILES):
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is needed to fetch GraphiQL, but it is not installed")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        for package, digest in PACKAGES.items():
            for file in _extracted(_archive(npm, package, digest, Path(scratch))):
                file.replace(target / file.name)
    return target


def _archive(npm: str, package: str, digest: str, scratch: Path) -> Path:
    command = [npm, "pack", package, "--silent", "--pack-destination", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
    archive = scratch / (done.stdout.strip().rpartition("\n")[2] or "none")
    if done.returncode or not archive.is_file():
        raise RuntimeError(f"npm could not fetch {package}: {done.stderr.strip()}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        raise RuntimeError(f"{package}: the SHA-256 of the archive is not the expected one")
    return archive


def _extracted(archive: Path) -> Iterator[Path]:
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            content = tar.extractfile(member) if path.name in FILES else None
            if content is not None:
                target = archive.parent / path.name
                target.write_bytes(content.read())
                yield target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"GraphiQL is in {install()}\n")
    except RuntimeError as failure:
        sys.exit(f"Error: {failure}")
