"""Venn-Abers intervals: the calibrated probability if this run failed, and if it did not.

Isotonic calibration with the run itself added once as a success and once as a failure yields p0 <= p1; for exchangeable
runs, one of the two is calibrated (Vovk and Petej, "Venn-Abers predictors", UAI 2014). Both depend only on the score,
so they are computed once, as steps over the scores of the calibration runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["VennAbers"]

Floats = NDArray[np.float64]

MOST_POINTS = 200
"""The maximum number of equal-count bins of scores from which the steps are computed."""


@dataclass(frozen=True, slots=True)
class VennAbers:
    """Interval steps: a score above `scores[i-1]` and up to `scores[i]` has the interval `low[i]`..`high[i]`."""

    scores: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def interval(self, score: float) -> tuple[float, float]:
        """Return p0 and p1 at a score."""
        at = min(int(np.searchsorted(self.scores, score)), len(self.scores) - 1)
        return self.low[at], self.high[at]

    @classmethod
    def fit(cls, score: Floats, failed: Floats) -> Self:
        """Compute the steps from runs with known score and outcome (1.0: failed). Raises ValueError without runs."""
        if len(score) == 0:
            raise ValueError("an interval needs at least one finished run")
        order = np.argsort(score, kind="stable")
        bins = np.array_split(order, min(MOST_POINTS, len(order)))
        edges = [float(score[b[-1]]) for b in bins]
        runs, failures = [float(len(b)) for b in bins], [float(failed[b].sum()) for b in bins]
        low = [_isotonic_at(runs, failures, i, 0.0) for i in range(len(bins))]
        high = [_isotonic_at(runs, failures, i, 1.0) for i in range(len(bins))]
        return cls(tuple(edges), tuple(low), tuple(high))

    def to_json(self) -> dict[str, Any]:
        """Return the steps as JSON values."""
        return {"scores": list(self.scores), "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the steps from `to_json` output."""
        return cls(tuple(data["scores"]), tuple(data["low"]), tuple(data["high"]))


def _isotonic_at(runs: list[float], failures: list[float], at: int, failed: float) -> float:
    """Return the isotonic fit at bin `at` after adding one run with outcome `failed` to that bin.

    Uses pool adjacent violators (Ayer et al., 1955); each block is (runs, failures, bins).
    """
    blocks: list[tuple[float, float, int]] = []
    for i, (n, f) in enumerate(zip(runs, failures, strict=True)):
        block = (n + (i == at), f + failed * (i == at), 1)
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    for n, f, bins in blocks:
        at -= bins
        if at < 0:
            return f / n
    raise AssertionError("every bin is in a block")
