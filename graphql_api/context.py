"""Request contexts: what resolvers know about the current request."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import strawberry

from flexiroaster.config import Settings
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.installation import Installation

if TYPE_CHECKING:
    from flexiroaster.web.streams import Streams
    from graphql_api.loaders import Loaders

__all__ = ["Context", "Info", "StreamContext", "StreamInfo"]


class Context:
    """One request: its viewer, its installation, its trace, and the loaders that batch its reads."""

    __slots__ = ("_loaders", "installation", "request_id", "settings", "traceparent", "viewer")

    def __init__(
        self, installation: Installation, viewer: Viewer, request_id: str = "", traceparent: str | None = None
    ) -> None:
        self.installation = installation
        self.settings: Settings = installation.settings
        self.viewer = viewer
        self.request_id = request_id
        self.traceparent = traceparent
        self._loaders: Loaders | None = None

    @property
    def loaders(self) -> Loaders:
        """The loaders of this request, created on first use in the thread and loop that run the request."""
        if self._loaders is None:
            from graphql_api.loaders import Loaders

            self._loaders = Loaders(self)
        return self._loaders


Info: TypeAlias = strawberry.Info[Context, None]
"""The `info` argument of this schema's resolvers."""


class StreamContext(Context):
    """One request that starts a subscription.

    `resume` is the cursor from the transport, such as the header `Last-Event-ID`; it takes precedence over `after`.
    """

    __slots__ = ("resume", "streams")

    def __init__(self, installation: Installation, viewer: Viewer, streams: Streams, resume: str | None = None) -> None:
        super().__init__(installation, viewer)
        self.streams = streams
        self.resume = resume


StreamInfo: TypeAlias = strawberry.Info[StreamContext, None]
"""The `info` argument of subscription resolvers."""
