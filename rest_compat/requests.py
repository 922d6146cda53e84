"""The request context of handlers: the installation, the authenticated viewer and the request id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service.admin import audit
from flexiroaster.service.installation import Installation
from flexiroaster.web.authentication import authenticate, credentials_of

__all__ = ["Call", "Operating", "Reading", "installation_of", "operating", "request_id_of", "viewer_of"]


class Call:
    """The context of one request: its installation, viewer and id."""

    __slots__ = ("installation", "request_id", "viewer")

    def __init__(self, installation: Installation, viewer: Viewer, request_id: str) -> None:
        self.installation = installation
        self.viewer = viewer
        self.request_id = request_id

    @contextmanager
    def audited(self, action: str, subject: str | None, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Record the requested action of the block and its outcome in the audit log, even if it is refused."""
        with audit.recorded(
            self.installation,
            viewer=self.viewer,
            action=action,
            subject=subject,
            arguments=arguments,
            request_id=self.request_id,
        ):
            yield


def installation_of(request: Request) -> Installation:
    """Return the installation that the application serves."""
    installation: Installation = request.app.state.installation
    return installation


def request_id_of(request: Request) -> str:
    """Return the request id, as in the response header and the log."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def viewer_of(request: Request) -> Viewer:
    """Authenticate the request and return its viewer; sometimes reads the database.

    Raises UnauthenticatedError, StoreError.
    """
    viewer = authenticate(installation_of(request), request.scope, credentials_of(request.scope))
    request.scope.setdefault("state", {})["viewer"] = viewer.name
    return viewer


def reading(request: Request) -> Call:
    """Require the role viewer and return the call; a dependency without `async` runs in a thread."""
    return _call(request, Role.VIEWER)


def operating(request: Request) -> Call:
    """Require the role operator and return the call."""
    return _call(request, Role.OPERATOR)


def _call(request: Request, needed: Role) -> Call:
    viewer = viewer_of(request)
    if not viewer.role.covers(needed):
        raise HTTPException(403, f"This call requires the role {needed}; the token has the role {viewer.role}")
    return Call(installation_of(request), viewer, request_id_of(request))


Reading = Annotated[Call, Depends(reading)]
"""A call that requires the role viewer."""

Operating = Annotated[Call, Depends(operating)]
"""A call that requires the role operator."""
