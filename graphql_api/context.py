"""What a resolver knows of the request it works for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import strawberry

from flexiroaster.config import Settings
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.installation import Installation

if TYPE_CHECKING:
    from graphql_api.loaders import Loaders

__all__ = ["Context", "Info"]


class Context:
    """One request: who asks, of which installation, and the loaders that batch its reads."""

    __slots__ = ("_loaders", "installation", "request_id", "settings", "viewer")

    def __init__(self, installation: Installation, viewer: Viewer, request_id: str = "") -> None:
        self.installation = installation
        self.settings: Settings = installation.settings
        self.viewer = viewer
        self.request_id = request_id
        self._loaders: Loaders | None = None

    @property
    def loaders(self) -> Loaders:
        """The loaders of this request, made with the first use, in the thread and loop that run the request."""
        if self._loaders is None:
            from graphql_api.loaders import Loaders

            self._loaders = Loaders(self)
        return self._loaders


Info: TypeAlias = strawberry.Info[Context, None]
"""The `info` argument of this schema's resolvers."""
