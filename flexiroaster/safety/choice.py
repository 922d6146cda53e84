"""Which model answers, judged by what each of them said before the outcomes were known (prequentially)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.additive import score
from flexiroaster.safety.calibration import BetaCalibration
from flexiroaster.safety.comparison import LEAST_RUNS, Comparison, compare
from flexiroaster.safety.examples import Examples
from flexiroaster.safety.model import Calibrated, RiskModel, Rung
from flexiroaster.safety.prior import PRIOR
from flexiroaster.safety.venn_abers import VennAbers

__all__ = ["LEAST_EXAMPLES", "refresh", "refresh_due", "training_due"]

CALIBRATED_ON = 5000
"""Newest runs that a model is recalibrated on."""

JUDGED_ON = 2000
"""Newest runs that two rungs are compared on."""

LEAST_EXAMPLES = 500
"""Runs from which on a local model is trained."""

LEAST_FOR_STEPS = 200
BACKGROUND = 100


def refresh_due(model: RiskModel, runs: int) -> bool:
    """Whether enough runs have ended since the last refresh: 5 % more, and at least ten."""
    return runs - model.runs_at_refresh >= max(10, model.runs_at_refresh // 20)


def training_due(model: RiskModel, runs: int) -> bool:
    """Whether enough runs have ended since the last training: a quarter more, and 500 at least."""
    return runs >= max(LEAST_EXAMPLES, model.runs_at_training + model.runs_at_training // 4)


def refresh(model: RiskModel, examples: Examples, runs: int) -> RiskModel:
    """Recalibrate prior and local model to the newest outcomes, and step up or back if that is better beyond noise.

    `examples` are the newest (some 5,000 are enough), `runs` the number of all that there ever were.
    """
    if len(examples) == 0:
        return model
    recent = examples.newest(CALIBRATED_ON)
    refreshed = replace(
        model,
        recalibrated=_recalibrated(Calibrated(PRIOR), recent),
        recalibrated_local=_recalibrated_local(model, recent),
        background=_background(recent.rows) if len(recent) >= LEAST_RUNS else model.background,
        runs_at_refresh=runs,
    )
    return _stepped(refreshed, examples.newest(JUDGED_ON))


def _recalibrated(calibrated: Calibrated, examples: Examples) -> Calibrated:
    scores = score(calibrated.model, examples.rows)
    steps = VennAbers.fit(scores, examples.failed) if len(examples) >= LEAST_FOR_STEPS else calibrated.steps
    return replace(calibrated, curve=BetaCalibration.fit(scores, examples.failed, calibrated.curve), steps=steps)


def _recalibrated_local(model: RiskModel, examples: Examples) -> Calibrated | None:
    """The local model through a curve fitted to what ended after its training: of its own runs it knows too much."""
    if model.local is None or model.local_since is None:
        return None
    unseen = examples.ended_after(model.local_since)
    return _recalibrated(model.local, unseen) if len(unseen) else None


def _background(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every so many-th of the newest starts: explanations compare with these."""
    chosen = np.linspace(0, len(rows) - 1, min(BACKGROUND, len(rows))).astype(np.int64)
    return np.asarray(rows[chosen], dtype=np.float64)


_BELOW = {
    Rung.PRIOR: (),
    Rung.RECALIBRATED: (Rung.PRIOR,),
    Rung.LOCAL: (Rung.RECALIBRATED,),
    Rung.RECALIBRATED_LOCAL: (Rung.RECALIBRATED, Rung.LOCAL),
}
"""What answers instead if a rung has become worse than that."""


def _stepped(model: RiskModel, examples: Examples) -> RiskModel:
    if model.rung in {
        Rung.LOCAL,
        Rung.RECALIBRATED_LOCAL,
    }:  # what an earlier local model said does not count for this one
        examples = examples.ended_after(model.local_since or 0.0)
    for lower in _BELOW[model.rung]:
        found = _judged(examples, lower, model.rung)
        if found.worse:
            return model.with_choice(lower, f"stepped back: the {model.rung} has become worse: {found}")
    if model.rung is Rung.PRIOR:
        found = _judged(examples, Rung.PRIOR, Rung.RECALIBRATED)
        if found.likely:
            return model.with_choice(Rung.RECALIBRATED, f"recalibrated to this installation: {found}")
        return model.with_choice(Rung.PRIOR, f"the prior: recalibrating it is not better yet: {found}")
    if model.rung is Rung.LOCAL:
        found = _judged(examples, Rung.LOCAL, Rung.RECALIBRATED_LOCAL)
        if found.likely:
            return model.with_choice(Rung.RECALIBRATED_LOCAL, f"the local model recalibrated: {found}")
    return model


def _judged(examples: Examples, lower: Rung, upper: Rung) -> Comparison:
    return compare(examples.said[lower], examples.said[upper], examples.failed)
