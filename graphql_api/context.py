"""Request contexts: what resolvers know about the current request, and the loaders that batch its reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import strawberry
from strawberry.dataloader import DataLoader

from flexiroaster.model.viewer import Viewer
from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.events import Attempt
from flexiroaster.service.executions.executions import ExecutionRow, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety import decisions, risk
from flexiroaster.service.safety.decisions import DecisionRow
from flexiroaster.web.streams import Streams

__all__ = ["Context", "Info", "Loaders", "StreamContext", "StreamInfo"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Context:
    """One request: its viewer, its installation, its trace, and the loaders that batch its reads."""

    __slots__ = ("_loaders", "installation", "request_id", "traceparent", "viewer")

    def __init__(
        self, installation: Installation, viewer: Viewer, request_id: str = "", traceparent: str | None = None
    ) -> None:
        self.installation = installation
        self.viewer = viewer
        self.request_id = request_id
        self.traceparent = traceparent
        self._loaders: Loaders | None = None

    @property
    def loaders(self) -> Loaders:
        """The loaders of this request, created on first use in the thread and loop that run the request."""
        if self._loaders is None:
            self._loaders = Loaders(self.installation)
        return self._loaders


class StreamContext(Context):
    """One request that starts a subscription.

    `resume` is the cursor from the transport, such as the header `Last-Event-ID`; it takes precedence over `after`.
    """

    __slots__ = ("resume", "streams")

    def __init__(self, installation: Installation, viewer: Viewer, streams: Streams, resume: str | None = None) -> None:
        super().__init__(installation, viewer)
        self.streams = streams
        self.resume = resume


Info: TypeAlias = strawberry.Info[Context, None]
"""The `info` argument of this schema's resolvers."""

StreamInfo: TypeAlias = strawberry.Info[StreamContext, None]
"""The `info` argument of subscription resolvers."""


class Loaders:
    """The data loaders of one request: one SQL statement reads what the fields of many objects need."""

    def __init__(self, installation: Installation) -> None:
        self.executions = _loader(installation, executions.by_ids, None)
        self.pipelines = _loader(installation, pipelines.by_ids, None)
        self.revisions = _loader(installation, pipelines.by_keys, None)
        self.revision_rows = _loader(installation, pipelines.revision_rows, None)
        self.assessments = _loader(installation, risk.of_executions, None)
        self.decisions = _loader(installation, decisions.by_ids, None)
        self.stage_runs: DataLoader[str, list[StageRow]] = _loader(installation, executions.stages_by_execution, [])
        self.attempts: DataLoader[str, Mapping[str, list[Attempt]]] = _loader(installation, events.by_execution, {})
        self.execution_decisions: DataLoader[str, list[DecisionRow]] = _loader(
            installation, decisions.of_executions, []
        )
        self.latest_executions: DataLoader[str, list[ExecutionRow]] = _loader(installation, executions.latest, [])


def _loader(
    installation: Installation, read: Callable[[Installation, list[K]], Mapping[K, V]], absent: D
) -> DataLoader[K, V | D]:
    """Return a loader over a function that reads many keys at once; keys without a result load `absent`."""

    async def load(keys: list[K]) -> Sequence[V | D]:
        found = read(installation, keys)
        return [found.get(key, absent) for key in keys]

    return DataLoader(load_fn=load)
