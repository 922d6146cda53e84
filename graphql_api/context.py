"""Request contexts: what resolvers know about the current request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import strawberry
from strawberry.dataloader import DataLoader

from flexiroaster.config import Settings
from flexiroaster.model.viewer import Viewer
from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.events import Attempt
from flexiroaster.service.executions.executions import ExecutionRow, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.pipelines import PipelineRow, Revision, RevisionRow
from flexiroaster.service.safety import decisions, risk
from flexiroaster.service.safety.decisions import DecisionRow
from flexiroaster.service.safety.risk import AssessmentRow

if TYPE_CHECKING:
    from flexiroaster.web.streams import Streams

__all__ = ["Context", "Info", "Loaders", "StreamContext", "StreamInfo"]


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
            from graphql_api.context import Loaders

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


# Data loaders: one SQL statement reads what the fields of many objects need.
K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Loaders:
    """The loaders of one request."""

    def __init__(self, context: Context) -> None:
        installation = context.installation
        self.executions: DataLoader[str, ExecutionRow | None] = _loader(
            lambda ids: executions.by_ids(installation, ids), None
        )
        self.pipelines: DataLoader[str, PipelineRow | None] = _loader(
            lambda ids: pipelines.by_ids(installation, ids), None
        )
        self.revisions: DataLoader[tuple[str, int], Revision | None] = _loader(
            lambda keys: pipelines.by_keys(installation, keys), None
        )
        self.revision_rows: DataLoader[tuple[str, int], RevisionRow | None] = _loader(
            lambda keys: pipelines.revision_rows(installation, keys), None
        )
        self.stage_runs: DataLoader[str, list[StageRow]] = _loader(
            lambda ids: executions.stages_by_execution(installation, ids), []
        )
        self.assessments: DataLoader[str, AssessmentRow | None] = _loader(
            lambda ids: risk.of_executions(installation, ids), None
        )
        self.attempts: DataLoader[str, Mapping[str, list[Attempt]]] = _loader(
            lambda ids: events.by_execution(installation, ids), {}
        )
        self.decisions: DataLoader[str, DecisionRow | None] = _loader(
            lambda ids: decisions.by_ids(installation, ids), None
        )
        self.execution_decisions: DataLoader[str, list[DecisionRow]] = _loader(
            lambda ids: decisions.of_executions(installation, ids), []
        )
        self.latest_executions: DataLoader[str, list[ExecutionRow]] = _loader(
            lambda ids: executions.latest(installation, ids), []
        )


def _loader(read: Callable[[list[K]], Mapping[K, V]], absent: D) -> DataLoader[K, V | D]:
    """A loader over a function that reads many keys at once; keys without a result load `absent`."""

    async def load(keys: list[K]) -> Sequence[V | D]:
        found = read(keys)
        return [found.get(key, absent) for key in keys]

    return DataLoader(load_fn=load)
