"""A columnar history of runs, and its replay: at each start, only runs that ended earlier are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.features import Past, features
from flexiroaster.safety.risk.state import PipelineState, Population
from flexiroaster.safety.runs import Ending, Outcome, Start, group_of

__all__ = ["History", "Ledger", "feature_rows", "replay"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class History:
    """Runs ordered by start. Times are seconds since 1970, UTC; a run never ends before its start.

    Runs that start or end at the same moment are ordered by pipeline, then by execution id, so that results do not
    depend on the row order of the source.
    """

    pipeline_id: list[str]
    started_at: Floats
    finished_at: Floats
    outcome: list[Outcome]
    duration_s: list[float | None]
    n_stages: list[int | None]
    execution_id: list[str] | None = None

    def __len__(self) -> int:
        return len(self.pipeline_id)

    @property
    def target(self) -> Floats:
        """The outcome of each run: 1.0 failed, 0.0 completed, NaN cancelled (never predicted)."""
        values = {Outcome.FAILED: 1.0, Outcome.COMPLETED: 0.0, Outcome.CANCELLED: float("nan")}
        return np.array([values[outcome] for outcome in self.outcome], dtype=np.float64)

    def in_order(self) -> History:
        """Return the same runs ordered by start."""
        rows = self.order(self.started_at)
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return History(**{name: _taken(values, rows) for name, values in columns.items()})

    def order(self, times: Floats) -> list[int]:
        """Return the row numbers ordered by these times; ties by pipeline, then by execution id."""
        keys = list(zip(times.tolist(), self.pipeline_id, self.execution_id or [""] * len(self), strict=True))
        return sorted(range(len(self)), key=keys.__getitem__)

    def starts(self) -> Iterator[Start]:
        """Yield each run as known at its start."""
        for row in zip(self.pipeline_id, self.started_at.tolist(), self.n_stages, strict=True):
            yield Start(*row)

    def ending(self, row: int) -> Ending:
        """Return the ending of a run."""
        return Ending(float(self.finished_at[row]), self.outcome[row], self.duration_s[row])


def _taken(column: Any, rows: Sequence[int]) -> Any:  # noqa: ANN401 - an array stays one, a list stays one
    if column is None:
        return None
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


class Ledger:
    """The states of all pipelines, of their groups and of the installation."""

    def __init__(self) -> None:
        self.pipelines: defaultdict[str, PipelineState] = defaultdict(PipelineState)
        self.groups: defaultdict[str, Population] = defaultdict(Population)
        self.installation = Population()

    def past(self, pipeline_id: str) -> Past:
        """Return the past of a pipeline as known now."""
        return Past(self.pipelines[pipeline_id], self.groups[group_of(pipeline_id)], self.installation)

    def add(self, pipeline_id: str, ending: Ending) -> None:
        """Add a finished run; runs must be added in the order of their end times."""
        self.past(pipeline_id).add(ending)


def replay(history: History) -> Iterator[tuple[Start, Past]]:
    """Yield each run start in order, with the past of its pipeline known just before.

    A run counts only after its end: one that ends at the exact time of a start is not yet known then. The `Past` is
    live: read it before requesting the next start.
    """
    ledger, order = Ledger(), history.order(history.finished_at)
    finished, ended = history.finished_at[order].tolist(), 0
    for start in history.starts():
        while ended < len(order) and finished[ended] < start.at:
            row = order[ended]
            ledger.add(history.pipeline_id[row], history.ending(row))
            ended += 1
        yield start, ledger.past(start.pipeline_id)


def feature_rows(history: History) -> Floats:
    """Return the features of every start (runs x features)."""
    rows = [features(start, past) for start, past in replay(history)]
    return np.array(rows, dtype=np.float64).reshape(len(history), -1)
