"""Quality metrics for predicted probabilities: ranking, squared error and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped] # ships no types

__all__ = ["BINS", "Bin", "Metrics", "measure", "reliability"]

Floats = NDArray[np.float64]

BINS = 15


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
    if len(failed) == 0:
        return None
    rate, brier, bins = (
        float(failed.mean()),
        float(np.mean((probability - failed) ** 2)),
        reliability(probability, failed),
    )
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
