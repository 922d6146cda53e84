"""Model selection: compares the models by their predictions made before the outcomes were known (prequentially)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.learning.evaluation import MIN_RUNS, Comparison, compare
from flexiroaster.safety.risk.additive import score
from flexiroaster.safety.risk.calibration import BetaCalibration, VennAbers
from flexiroaster.safety.risk.model import PRIOR, Calibrated, RiskModel, Rung

__all__ = ["MIN_EXAMPLES", "Examples", "refresh", "refresh_due", "training_due"]


Floats = NDArray[np.float64]

CALIBRATED_ON = 5000
"""Number of newest runs used to recalibrate a model."""

COMPARED_ON = 2000
"""Number of newest runs used to compare two rungs."""

MIN_EXAMPLES = 500
"""Minimum number of runs to train a local model."""

MIN_FOR_STEPS = 200
BACKGROUND = 100


@dataclass(frozen=True, slots=True)
class Examples:
    """Run starts with a known outcome (1.0: failed; cancelled runs are excluded), ordered by start.

    `predictions` holds each rung's probabilities, predicted at the start, before the outcome was known; NaN where that
    rung had no model yet. `champion` holds the engine's answers.
    """

    rows: Floats
    failed: Floats
    started_at: Floats
    finished_at: Floats
    predictions: Mapping[Rung, Floats]
    champion: Floats

    def __len__(self) -> int:
        return len(self.failed)

    def take(self, which: slice | NDArray[np.bool_]) -> Examples:
        """Return the selected examples."""
        predictions = {rung: values[which] for rung, values in self.predictions.items()}
        arrays = (self.rows, self.failed, self.started_at, self.finished_at, self.champion)
        rows, failed, started_at, finished_at, champion = (array[which] for array in arrays)
        return Examples(rows, failed, started_at, finished_at, predictions, champion)

    def newest(self, limit: int) -> Examples:
        """Return the newest `limit` examples, or all if there are fewer."""
        return self.take(slice(max(0, len(self) - limit), None))

    def ended_before(self, time: float) -> Examples:
        """Return the examples whose runs ended before `time` (seconds since 1970)."""
        return self.take(self.finished_at < time)

    def ended_after(self, time: float) -> Examples:
        """Return the examples whose runs ended after `time` (seconds since 1970)."""
        return self.take(self.finished_at > time)

    @property
    def data_hash(self) -> str:
        """A hash that identifies exactly these features and outcomes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes())
        digest.update(np.ascontiguousarray(self.failed).tobytes())
        return digest.hexdigest()[:16]


def refresh_due(model: RiskModel, runs: int) -> bool:
    """Return whether enough runs have ended since the last refresh: 5 % more, and at least ten."""
    return runs - model.runs_at_refresh >= max(10, model.runs_at_refresh // 20)


def training_due(model: RiskModel, runs: int) -> bool:
    """Return whether enough runs have ended since the last training: 25 % more, and at least 500 in total."""
    return runs >= max(MIN_EXAMPLES, model.runs_at_training + model.runs_at_training // 4)


def refresh(model: RiskModel, examples: Examples, runs: int) -> RiskModel:
    """Recalibrate the prior and the local model to the newest outcomes, then choose the rung that answers.

    The choice steps back if the present rung has become worse beyond noise, and steps up if the next is likely better.
    `examples` are the newest (about 5,000 are enough); `runs` is the number of all runs so far.
    """
    if len(examples) == 0:
        return model
    recent = examples.newest(CALIBRATED_ON)
    refreshed = replace(
        model,
        recalibrated=_recalibrate(Calibrated(PRIOR), recent),
        recalibrated_local=_recalibrate_local(model, recent),
        background=_background(recent.rows) if len(recent) >= MIN_RUNS else model.background,
        runs_at_refresh=runs,
    )
    return _choose_rung(refreshed, examples.newest(COMPARED_ON))


def _recalibrate(calibrated: Calibrated, examples: Examples) -> Calibrated:
    scores = score(calibrated.model, examples.rows)
    steps = VennAbers.fit(scores, examples.failed) if len(examples) >= MIN_FOR_STEPS else calibrated.steps
    return replace(calibrated, curve=BetaCalibration.fit(scores, examples.failed, calibrated.curve), steps=steps)


def _recalibrate_local(model: RiskModel, examples: Examples) -> Calibrated | None:
    """Recalibrate the local model on runs that ended after its training; its own training runs would bias the fit."""
    if model.local is None or model.local_since is None:
        return None
    unseen = examples.ended_after(model.local_since)
    return _recalibrate(model.local, unseen) if len(unseen) else None


def _background(rows: Floats) -> Floats:
    """Return evenly spaced rows of the newest starts; explanations compare with these."""
    chosen = np.linspace(0, len(rows) - 1, min(BACKGROUND, len(rows))).astype(np.int64)
    return np.asarray(rows[chosen], dtype=np.float64)


_BELOW = {
    Rung.PRIOR: (),
    Rung.RECALIBRATED: (Rung.PRIOR,),
    Rung.LOCAL: (Rung.RECALIBRATED,),
    Rung.RECALIBRATED_LOCAL: (Rung.RECALIBRATED, Rung.LOCAL),
}
"""The fallback rungs for each rung: the first one that beats it beyond noise answers instead."""


def _choose_rung(model: RiskModel, examples: Examples) -> RiskModel:
    if model.rung in {Rung.LOCAL, Rung.RECALIBRATED_LOCAL}:  # an earlier local model's predictions do not count
        examples = examples.ended_after(model.local_since or 0.0)
    for lower in _BELOW[model.rung]:
        found = _compare(examples, lower, model.rung)
        if found.worse:
            return model.with_choice(lower, f"stepped back: {model.rung} has become worse: {found}")
    if model.rung is Rung.PRIOR:
        found = _compare(examples, Rung.PRIOR, Rung.RECALIBRATED)
        if found.likely:
            return model.with_choice(Rung.RECALIBRATED, f"recalibrated to this installation: {found}")
        return model.with_choice(Rung.PRIOR, f"the prior: recalibration is not better yet: {found}")
    if model.rung is Rung.LOCAL:
        found = _compare(examples, Rung.LOCAL, Rung.RECALIBRATED_LOCAL)
        if found.likely:
            return model.with_choice(Rung.RECALIBRATED_LOCAL, f"recalibrated the local model: {found}")
    return model


def _compare(examples: Examples, lower: Rung, upper: Rung) -> Comparison:
    return compare(examples.predictions[lower], examples.predictions[upper], examples.failed)
