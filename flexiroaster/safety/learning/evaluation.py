"""The quality of predicted probabilities: metrics, comparison of two forecasters, and drift of the calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MIN_RUNS",
    "Comparison",
    "Drift",
    "Metrics",
    "compare",
    "drift",
    "log_loss",
    "measure",
    "reliability",
]


Floats = NDArray[np.float64]

BINS = 15

BLOCKS = 20
MIN_RUNS = 100
BEYOND_NOISE = 2.093
"""The 97.5 % point of Student's t with 19 degrees of freedom (20 blocks)."""

DRIFT_RUNS = 500
MIN_DRIFT_RUNS = 50
DRIFT_ALARM = 3.29
"""The two-sided 0.1 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One row of a reliability table: the mean predicted probability and the observed failure rate."""

    runs: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one forecaster; None where undefined (only one outcome, or no pipeline with both outcomes).

    `auc_within`: the mean AUC within pipelines, weighted by their pairs of a failed and a completed run. `brier_skill`:
    1 - Brier score / Brier score of always predicting the observed rate. `ece`: expected calibration error over 15 bins
    of equal counts. `recall`: the share of all failures found among the 10 % of runs with the highest probabilities.
    """

    runs: int
    failed: float
    auc: float | None
    auc_within: float | None
    pr_auc: float | None
    brier: float
    brier_skill: float | None
    ece: float
    recall: float | None
    reliability: tuple[Bin, ...]

    def __str__(self) -> str:
        shown = {"AUC": self.auc, "within": self.auc_within, "Brier": self.brier, "ECE": self.ece}
        return f"{self.runs} runs, " + ", ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in shown.items())


def measure(probability: Floats, failed: Floats, pipeline_id: Sequence[str]) -> Metrics | None:
    """Compute the metrics for runs with a known outcome (1.0: failed); None without any run."""
    # Imported here because every process compares forecasts, and scikit-learn takes a second and is an extra.
    from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped] # ships no types

    if len(failed) == 0:
        return None
    rate, bins = float(failed.mean()), reliability(probability, failed)
    brier = float(np.mean((probability - failed) ** 2))
    both = 0 < rate < 1
    return Metrics(
        runs=len(failed),
        failed=rate,
        auc=float(roc_auc_score(failed, probability)) if both else None,
        auc_within=_auc_within(probability, failed, pipeline_id),
        pr_auc=float(average_precision_score(failed, probability)) if both else None,
        brier=brier,
        brier_skill=1 - brier / (rate * (1 - rate)) if both else None,
        ece=sum(b.runs * abs(b.predicted - b.observed) for b in bins) / len(failed),
        recall=_recall(probability, failed),
        reliability=bins,
    )


def reliability(probability: Floats, failed: Floats) -> tuple[Bin, ...]:
    """Return predicted and observed failure rates in 15 bins of equal counts, by rising probability."""
    order = np.argsort(probability, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return tuple(Bin(len(b), float(probability[b].mean()), float(failed[b].mean())) for b in bins)


def _auc_within(probability: Floats, failed: Floats, pipeline_id: Sequence[str]) -> float | None:
    _, codes = np.unique(np.asarray(pipeline_id, dtype=object).astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    total = weight = 0.0
    for rows in pieces:
        bad = float(failed[rows].sum())
        pairs = bad * (len(rows) - bad)
        if pairs:
            total += pairs * _auc(probability[rows], failed[rows])
            weight += pairs
    return total / weight if weight else None


def _auc(probability: Floats, failed: Floats) -> float:
    """Return the AUC by Mann and Whitney's U: as scikit-learn's, whose checks cost more than a small pipeline."""
    values, ranks, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    bad = failed > 0
    n = int(bad.sum())
    return float((middle[ranks][bad].sum() - n * (n + 1) / 2) / (n * (len(failed) - n))) if len(values) > 1 else 0.5


def _recall(probability: Floats, failed: Floats) -> float | None:
    if not failed.any():
        return None
    alerts = np.argsort(-probability, kind="stable")[: max(1, len(failed) // 10)]
    return float(failed[alerts].sum() / failed.sum())


def log_loss(probability: Floats, failed: Floats) -> Floats:
    """Return -ln of the probability of each run's actual outcome; probabilities are kept 1e-6 away from 0 and 1."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(-np.log(np.where(failed > 0, p, 1 - p)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean log loss of the present and the other forecaster over `runs` runs; `t` > 0 favors the other."""

    runs: int
    present_loss: float
    other_loss: float
    t: float

    @property
    def better(self) -> bool:
        """Whether the other forecaster is better beyond noise."""
        return self.t > BEYOND_NOISE

    @property
    def likely(self) -> bool:
        """Whether the other forecaster is probably better (one-sided 16 %); enough where an error does little harm."""
        return self.t > 1.0

    @property
    def worse(self) -> bool:
        """Whether the other forecaster is worse beyond noise."""
        return self.t < -BEYOND_NOISE

    def __str__(self) -> str:
        return f"log loss {self.other_loss:.4f} against {self.present_loss:.4f} on {self.runs} runs (t = {self.t:.1f})"


def compare(present: Floats, other: Floats, failed: Floats) -> Comparison:
    """Compare two forecasts of the same runs, ordered by time.

    Diebold and Mariano, "Comparing Predictive Accuracy" (1995), on 20 blocks of consecutive runs, because neighboring
    runs fail together. Runs without both forecasts (NaN) do not count; with fewer than 100 runs, t is 0.
    """
    known = ~(np.isnan(present) | np.isnan(other))
    present, other, failed = present[known], other[known], failed[known]
    first, second = log_loss(present, failed), log_loss(other, failed)
    if len(failed) < MIN_RUNS:
        return Comparison(len(failed), _mean(first), _mean(second), 0.0)
    gains = np.array([block.mean() for block in np.array_split(first - second, BLOCKS)])
    spread = float(gains.std(ddof=1)) / math.sqrt(BLOCKS)
    t = float(gains.mean()) / spread if spread > 0 else 0.0
    return Comparison(len(failed), _mean(first), _mean(second), t)


def _mean(losses: Floats) -> float:
    return float(losses.mean()) if len(losses) else 0.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Failures expected and observed among the newest runs; `z` is their difference in standard deviations."""

    runs: int
    expected: float
    observed: float
    z: float

    @property
    def drifting(self) -> bool:
        """Whether the difference is significant (p < 0.001, at least 50 runs)."""
        return self.runs >= MIN_DRIFT_RUNS and abs(self.z) > DRIFT_ALARM


def drift(predicted: Floats, failed: Floats) -> Drift:
    """Compare the predictions for the newest 500 runs with their outcomes, oldest first; NaN means no prediction.

    z = sum(y - p) / sqrt(sum(p (1 - p))) (calibration in the large).
    """
    answered = ~np.isnan(predicted)
    p, y = np.clip(predicted[answered][-DRIFT_RUNS:], 1e-6, 1 - 1e-6), failed[answered][-DRIFT_RUNS:]
    spread = math.sqrt(float((p * (1 - p)).sum()))
    z = float((y - p).sum()) / spread if spread > 0 else 0.0
    return Drift(len(y), float(p.sum()), float(y.sum()), z)
