"""Data loaders: one SQL statement reads what the fields of many objects need.

They belong to one request and run in a worker thread's loop, so a batch may read the database synchronously.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from strawberry.dataloader import DataLoader

from flexiroaster.service import attempts, pipelines
from flexiroaster.service.attempts import Attempt
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionRow, StageRow
from flexiroaster.service.pipelines import PipelineRow, Revision, RevisionRow
from flexiroaster.service.safety import decisions, risk
from flexiroaster.service.safety.decisions import DecisionRow
from flexiroaster.service.safety.risk import AssessmentRow

if TYPE_CHECKING:
    from graphql_api.context import Context

__all__ = ["Loaders"]

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
            lambda ids: attempts.by_execution(installation, ids), {}
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
