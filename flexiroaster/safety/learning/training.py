"""Trains a challenger model on the installation's own history and compares it with the champion.

The history is split by time: fit on the oldest 70 %, choose the kind and calibrate on the next 15 %, compare on the
newest 15 %. The final model is fitted on everything and calibrated with the scores of earlier fits on unseen runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.comparison import Comparison, compare, log_loss
from flexiroaster.safety.drift import Drift, drift
from flexiroaster.safety.examples import Examples
from flexiroaster.safety.fitting import fit_boosting, fit_logistic
from flexiroaster.safety.learning.model_selection import LEAST_EXAMPLES
from flexiroaster.safety.risk.additive import AdditiveModel, score
from flexiroaster.safety.risk.calibration import BetaCalibration, sigmoid
from flexiroaster.safety.risk.model import Calibrated, RiskModel
from flexiroaster.safety.venn_abers import VennAbers

__all__ = ["MOST_EXAMPLES", "Training", "train"]

Floats = NDArray[np.float64]
Fit = Callable[[Floats, Floats], AdditiveModel]

LEAST_OF_EACH = 30
"""The minimum number of failed and of completed runs in every fit."""

MOST_EXAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class Training:
    """The result of one training: the challenger, its comparison with the champion, and whether it was promoted.

    `seed` and `data_hash` make it reproducible. `model` answers from now on; `drift` is the champion's.
    """

    model: RiskModel
    challenger: Calibrated | None
    kind: str | None
    comparison: Comparison | None
    promoted: bool
    reason: str
    examples: int
    seed: int
    data_hash: str
    drift: Drift


def train(model: RiskModel, examples: Examples, runs: int, seed: int = 0) -> Training:
    """Train a challenger on the newest 100,000 examples; `runs` is the number of all runs so far."""
    data, trained = examples.newest(MOST_EXAMPLES), replace(model, runs_at_training=runs)
    parts, watched = _parts(data), drift(data.champion, data.failed)
    if parts is None:
        reason = f"no model was trained: {len(data)} runs contain too few failed or completed ones"
        return Training(trained, None, None, None, False, reason, len(data), seed, data.data_hash, watched)
    kind, challenger, comparison = _challenge(data, parts, seed)
    verdict = "promoted" if comparison.better else "not promoted, not better beyond noise"
    reason = f"{kind} model trained on {len(data)} runs, {verdict}: {comparison}"
    if comparison.better:
        trained = trained.with_local(challenger, float(data.finished_at.max()), reason)
    made = (len(data), seed, data.data_hash, watched)
    return Training(trained, challenger, kind, comparison, comparison.better, reason, *made)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a history: `older` had ended when `middle` began, `known` had ended when `newest` began."""

    older: Examples
    middle: Examples
    known: Examples
    newest: Examples


def _parts(data: Examples) -> _Parts | None:
    first, second = int(0.70 * len(data)), int(0.85 * len(data))
    middle, newest = data.take(slice(first, second)), data.take(slice(second, None))
    if len(data) < LEAST_EXAMPLES:
        return None
    older = data.take(slice(0, first)).ended_before(float(middle.started_at[0]))
    known = data.take(slice(0, second)).ended_before(float(newest.started_at[0]))
    failed = float(older.failed.sum())
    enough = min(failed, len(older) - failed) >= LEAST_OF_EACH
    return _Parts(older, middle, known, newest) if enough else None


def _challenge(data: Examples, parts: _Parts, seed: int) -> tuple[str, Calibrated, Comparison]:
    fits: dict[str, Fit] = {"logistic": fit_logistic, "boosted": lambda rows, failed: fit_boosting(rows, failed, seed)}
    middle = {kind: score(fit(parts.older.rows, parts.older.failed), parts.middle.rows) for kind, fit in fits.items()}
    kind = min(middle, key=lambda k: float(log_loss(sigmoid(middle[k]), parts.middle.failed).mean()))
    newest = score(fits[kind](parts.known.rows, parts.known.failed), parts.newest.rows)
    curve = BetaCalibration.fit(middle[kind], parts.middle.failed)
    comparison = compare(parts.newest.champion, curve.apply(newest), parts.newest.failed)
    unseen = np.concatenate([middle[kind], newest])
    outcomes = np.concatenate([parts.middle.failed, parts.newest.failed])
    final = fits[kind](data.rows, data.failed)
    return kind, Calibrated(final, BetaCalibration.fit(unseen, outcomes), VennAbers.fit(unseen, outcomes)), comparison
