"""Calibration drift: tests whether predictions still match outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Drift", "drift"]

Floats = NDArray[np.float64]

WATCHED = 500
LEAST = 50
ALARM = 3.29
"""The two-sided 0.1 % point of the normal distribution."""


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
        return self.runs >= LEAST and abs(self.z) > ALARM


def drift(said: Floats, failed: Floats) -> Drift:
    """Compare the predictions for the newest 500 runs with their outcomes, oldest first; NaN means no prediction.

    z = sum(y - p) / sqrt(sum(p (1 - p))) (calibration in the large).
    """
    answered = ~np.isnan(said)
    p, y = np.clip(said[answered][-WATCHED:], 1e-6, 1 - 1e-6), failed[answered][-WATCHED:]
    spread = math.sqrt(float((p * (1 - p)).sum()))
    z = float((y - p).sum()) / spread if spread > 0 else 0.0
    return Drift(len(y), float(p.sum()), float(y.sum()), z)
