"""A history of runs as columns, and goes through it as it happened: at each start, only what had ended is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.features import Past, features
from flexiroaster.safety.runs import Ending, Outcome, Start, group_of
from flexiroaster.safety.state import PipelineState, Population

__all__ = ["History", "Ledger", "feature_rows", "replay"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class History:
    """Runs in the order of their starts. Times are seconds since 1970, UTC; a run ends at its start or later.

    Runs that start or end at the same moment are in the order of their pipelines, then of their execution ids, so that
    nothing depends on the order of the rows they were read from.
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
        """1.0: failed, 0.0: completed, NaN: cancelled, which nobody is asked to predict."""
        values = {Outcome.FAILED: 1.0, Outcome.COMPLETED: 0.0, Outcome.CANCELLED: float("nan")}
        return np.array([values[outcome] for outcome in self.outcome], dtype=np.float64)

    def in_order(self) -> History:
        """The same runs in the order of their starts."""
        rows = self.order(self.started_at)
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return History(**{name: _taken(values, rows) for name, values in columns.items()})

    def order(self, times: Floats) -> list[int]:
        """The rows in the order of these times; ties by pipeline, then by execution id."""
        keys = list(zip(times.tolist(), self.pipeline_id, self.execution_id or [""] * len(self), strict=True))
        return sorted(range(len(self)), key=keys.__getitem__)

    def starts(self) -> Iterator[Start]:
        """Each run as it looked when it started."""
        for row in zip(self.pipeline_id, self.started_at.tolist(), self.n_stages, strict=True):
            yield Start(*row)

    def ending(self, row: int) -> Ending:
        """How a run ended."""
        return Ending(float(self.finished_at[row]), self.outcome[row], self.duration_s[row])


def _taken(column: Any, rows: Sequence[int]) -> Any:  # noqa: ANN401 - an array stays one, a list stays one
    if column is None:
        return None
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


class Ledger:
    """The states of all pipelines, their groups and the installation."""

    def __init__(self) -> None:
        self.pipelines: defaultdict[str, PipelineState] = defaultdict(PipelineState)
        self.groups: defaultdict[str, Population] = defaultdict(Population)
        self.installation = Population()

    def past(self, pipeline_id: str) -> Past:
        """What is known of a pipeline now."""
        return Past(self.pipelines[pipeline_id], self.groups[group_of(pipeline_id)], self.installation)

    def add(self, pipeline_id: str, ending: Ending) -> None:
        """A run ended; the ends come in the order of their times."""
        self.past(pipeline_id).add(ending)


def replay(history: History) -> Iterator[tuple[Start, Past]]:
    """Each start in the order of the starts, with what was known of its pipeline just before.

    A run counts from the moment after its end: one that ends in the very moment of a start is not known to it. The
    `Past` is live: read it before asking for the next.
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
    """The features of every start (runs x features)."""
    rows = [features(start, past) for start, past in replay(history)]
    return np.array(rows, dtype=np.float64).reshape(len(history), -1)
