"""Replays how the engine would have learned: at each time, only from runs that had already ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.learning.model_selection import CALIBRATED_ON, Examples, refresh, refresh_due, training_due
from flexiroaster.safety.risk.history import History
from flexiroaster.safety.risk.model import Calibrated, RiskModel, Rung

if TYPE_CHECKING:
    from flexiroaster.safety.learning.training import Training

__all__ = ["Learned", "replay_learning"]

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Learned:
    """The predictions at each start of a history; NaN where a rung had no model yet.

    `challenger` is the newest local model, promoted or not. `champion` is the engine's answer, and `rung` the model
    that gave it. `model` is the final state after all runs have ended; `data_hash` identifies its training data.
    """

    predictions: dict[Rung, Floats]
    challenger: Floats
    champion: Floats
    rung: list[Rung]
    model: RiskModel = field(default_factory=RiskModel)
    data_hash: str = ""
    trainings: list[Training] = field(default_factory=list)
    steps: list[tuple[float, str]] = field(default_factory=list)  # (time, reason for the change of rung)


def replay_learning(history: History, rows: Floats, *, seed: int = 0, local: bool = True) -> Learned:
    """Replay a history with features `rows`, learning as the engine does.

    With `local`, local models are trained, which requires the extra `safety`.
    """
    return _Learner(history, rows, seed, local).run()


class _Learner:
    def __init__(self, history: History, rows: Floats, seed: int, local: bool) -> None:
        self.history, self.rows, self.seed, self.local = history, rows, seed, local
        self.learned = Learned(
            predictions={rung: np.full(len(history), np.nan) for rung in Rung},
            challenger=np.full(len(history), np.nan),
            champion=np.full(len(history), np.nan),
            rung=[Rung.PRIOR] * len(history),
        )
        times = (history.started_at, history.finished_at)
        self.starts = Examples(rows, history.target, *times, self.learned.predictions, self.learned.champion)
        self.challenger: Calibrated | None = None

    def run(self) -> Learned:
        for begin, end, known in self._segments():
            self._learn(begin, known)
            self._predict(begin, end)
        self._learn(len(self.history), int((~np.isnan(self.starts.failed)).sum()))
        self.learned.data_hash = self._examples(0, len(self.history)).data_hash
        return self.learned

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        """Yield ranges of starts without learning in between: first, last + 1, outcomes known at the first."""
        ends = np.sort(self.history.finished_at[~np.isnan(self.starts.failed)])
        known = np.searchsorted(ends, self.history.started_at, side="left").tolist()
        begin = 0
        while begin < len(known):
            due = known[begin] + max(10, known[begin] // 20)
            end = max(int(np.searchsorted(known, due, side="left")), begin + 1)
            yield begin, end, known[begin]
            begin = end

    def _learn(self, begin: int, runs: int) -> None:
        trained = self.local and training_due(self.learned.model, runs)
        if trained:
            self._train(begin, runs)
        if runs and refresh_due(self.learned.model, runs):
            examples = self._examples(max(0, begin - 4 * CALIBRATED_ON), begin)
            self._use(begin, refresh(self.learned.model, examples, runs))
        if trained:
            self.learned.trainings[-1] = replace(self.learned.trainings[-1], model=self.learned.model)

    def _train(self, begin: int, runs: int) -> None:
        from flexiroaster.safety.learning.training import train

        training = train(self.learned.model, self._examples(0, begin), runs, self.seed)
        self.learned.trainings.append(training)
        self.challenger = training.challenger or self.challenger
        self._use(begin, training.model)

    def _use(self, begin: int, model: RiskModel) -> None:
        if model.rung is not self.learned.model.rung or model.local is not self.learned.model.local:
            self.learned.steps.append((self._time(begin), model.reason))
        self.learned.model = model

    def _time(self, row: int) -> float:
        """Return the start time of a row; after the last row, the moment after all runs have ended."""
        if row < len(self.history):
            return float(self.history.started_at[row])
        return float(np.nextafter(self.history.finished_at.max(initial=0.0), np.inf))

    def _examples(self, begin: int, end: int) -> Examples:
        """Return the runs among rows `begin` to `end` that had ended when row `end` started."""
        part = self.starts.take(slice(begin, end))
        return part.take(~np.isnan(part.failed) & (part.finished_at < self._time(end)))

    def _predict(self, begin: int, end: int) -> None:
        learned, part, rows = self.learned, slice(begin, end), self.rows[begin:end]
        for rung, values in learned.model.probabilities(rows).items():
            learned.predictions[rung][part] = values
        learned.champion[part] = learned.predictions[learned.model.rung][part]
        learned.rung[part] = [learned.model.rung] * len(rows)
        if self.challenger is not None:
            learned.challenger[part] = self.challenger.probabilities(rows)
