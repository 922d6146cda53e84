"""What a handler knows of the request it works for: the installation, who asks, and the request's id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service import audit
from flexiroaster.service.installation import Installation
from graphql_api.security import authenticate, credentials_of

__all__ = ["Call", "Operating", "Reading", "installation_of", "operating", "request_id_of", "viewer_of"]


class Call:
    """One request: of which installation, and by whom."""

    __slots__ = ("installation", "request_id", "viewer")

    def __init__(self, installation: Installation, viewer: Viewer, request_id: str) -> None:
        self.installation = installation
        self.viewer = viewer
        self.request_id = request_id

    @contextmanager
    def audited(self, action: str, subject: str | None, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Write down what the block was asked to do and what came of it, also where it was refused."""
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
    """The installation that is served."""
    installation: Installation = request.app.state.installation
    return installation


def request_id_of(request: Request) -> str:
    """The request's id, as the answer and the log name it."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def viewer_of(request: Request) -> Viewer:
    """Who asks; reads the database now and then. Raises UnauthenticatedError, StoreError."""
    viewer = authenticate(installation_of(request), request.scope, credentials_of(request.scope))
    request.scope.setdefault("state", {})["viewer"] = viewer.name
    return viewer


def reading(request: Request) -> Call:
    """The call of somebody who may look; a dependency without `async` runs in a thread."""
    return _call(request, Role.VIEWER)


def operating(request: Request) -> Call:
    """The call of somebody who may change something."""
    return _call(request, Role.OPERATOR)


def _call(request: Request, needed: Role) -> Call:
    viewer = viewer_of(request)
    if not viewer.role.covers(needed):
        raise HTTPException(403, f"This needs the role {needed}; the token has the role {viewer.role}")
    return Call(installation_of(request), viewer, request_id_of(request))


Reading = Annotated[Call, Depends(reading)]
"""The call of whoever may look."""

Operating = Annotated[Call, Depends(operating)]
"""The call of whoever may change something."""
