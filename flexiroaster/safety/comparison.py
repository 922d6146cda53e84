"""Forecast comparison: tests whether one forecaster beats another on the same runs beyond noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_RUNS", "Comparison", "compare", "log_loss"]

Floats = NDArray[np.float64]

BLOCKS = 20
LEAST_RUNS = 100
BEYOND_NOISE = 2.093
"""The 97.5 % point of Student's t with 19 degrees of freedom (20 blocks)."""


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
    if len(failed) < LEAST_RUNS:
        return Comparison(len(failed), _mean(first), _mean(second), 0.0)
    gains = np.array([block.mean() for block in np.array_split(first - second, BLOCKS)])
    spread = float(gains.std(ddof=1)) / math.sqrt(BLOCKS)
    t = float(gains.mean()) / spread if spread > 0 else 0.0
    return Comparison(len(failed), _mean(first), _mean(second), t)


def _mean(losses: Floats) -> float:
    return float(losses.mean()) if len(losses) else 0.0
