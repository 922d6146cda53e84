"""Calibration: a beta curve turns a score into a probability, and Venn-Abers steps give the interval around it.

P = sigmoid(a ln s - b ln(1 - s) + c) with s = sigmoid(score). a = b = 1, c = 0 is the identity; a = b is Platt scaling
(Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017). The normal prior on (a, b, c) makes it a small Bayesian
model: without data it is the identity, and its interval reflects the spread between installations. Venn-Abers intervals
hold the calibrated probability if this run failed, and if it did not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["BetaCalibration", "VennAbers", "log_odds", "sigmoid"]

Floats = NDArray[np.float64]

SLOPE_SPREAD = 0.3
"""Standard deviation of a and b between installations, before any data from this one."""

OFFSET_SPREAD = 0.6
"""Standard deviation of c between installations; docs/safety.md gives the source of both."""

MAX_POINTS = 200
"""The maximum number of equal-count bins of scores from which the Venn-Abers steps are computed."""

MIN_SLOPE = 0.05
_Z90 = 1.6448536269514722
MAX_STEPS = 50
_IDENTITY = np.array([1.0, 1.0, 0.0])
_TIED = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
_PRECISION = np.diag([SLOPE_SPREAD**-2, SLOPE_SPREAD**-2, OFFSET_SPREAD**-2])


def sigmoid(score: Floats) -> Floats:
    """Return 1 / (1 + exp(-score)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * score)), dtype=np.float64)


def log_odds(probability: Floats) -> Floats:
    """Return ln(p / (1 - p)), with p kept at least 1e-9 away from 0 and 1."""
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class BetaCalibration:
    """The fitted curve, and the covariance of (a, b, c) at the fit (3 x 3, row-major)."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0
    covariance: tuple[float, ...] = tuple(np.linalg.inv(_PRECISION).ravel().tolist())
    runs: int = 0

    def apply(self, score: Floats) -> Floats:
        """Return P for scores in log-odds, of any shape."""
        return sigmoid(self.a * -_softplus(-score) + self.b * _softplus(score) + self.c)

    def interval(self, score: float) -> tuple[float, float]:
        """Return the central 90 % interval of P at this score, from the posterior of (a, b, c)."""
        design = _design(np.array([score]))[0]
        middle = float(design @ (self.a, self.b, self.c))
        spread = math.sqrt(float(design @ np.reshape(self.covariance, (3, 3)) @ design))
        low, high = sigmoid(np.array([middle - _Z90 * spread, middle + _Z90 * spread]))
        return float(low), float(high)

    @classmethod
    def fit(cls, score: Floats, failed: Floats, towards: BetaCalibration | None = None) -> Self:
        """Fit the most probable curve to scores (log-odds) of runs with known outcomes (1.0: failed).

        The fit is shrunk toward the curve `towards`, by default the identity.
        """
        middle = _IDENTITY if towards is None else np.array([towards.a, towards.b, towards.c])
        theta, covariance = _fit(_design(score), failed, middle, _PRECISION)
        if min(theta[:2]) < MIN_SLOPE:  # would decrease: use Platt's single slope, which the prior keeps positive
            slope = np.array([middle[:2].mean(), middle[2]])
            tied, spread = _fit(_design(score) @ _TIED, failed, slope, _TIED.T @ _PRECISION @ _TIED)
            theta, covariance = _TIED @ (max(tied[0], MIN_SLOPE), tied[1]), _TIED @ spread @ _TIED.T
        a, b, c = theta.tolist()
        return cls(a, b, c, tuple(covariance.ravel().tolist()), len(score))

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON values."""
        return {"a": self.a, "b": self.b, "c": self.c, "covariance": list(self.covariance), "runs": self.runs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the curve from `to_json` output."""
        return cls(data["a"], data["b"], data["c"], tuple(data["covariance"]), data["runs"])


def _softplus(score: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, score), dtype=np.float64)


def _design(score: Floats) -> Floats:
    return np.column_stack([-_softplus(-score), _softplus(score), np.ones(len(score))])


def _fit(design: Floats, failed: Floats, middle: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """Find the most probable parameters and their covariance by Newton's method, halving each step until it helps."""
    theta, curvature = middle, precision
    for _ in range(MAX_STEPS):
        p = sigmoid(design @ theta)
        gradient = design.T @ (p - failed) + precision @ (theta - middle)
        curvature = (design.T * (p * (1 - p))) @ design + precision
        step, now = np.linalg.solve(curvature, gradient), _loss(design, failed, theta, middle, precision)
        share = 1.0
        while share > 1e-6 and _loss(design, failed, theta - share * step, middle, precision) > now:
            share /= 2
        theta = theta - share * step
        if float(np.abs(step).max()) < 1e-8:
            break
    return theta, np.asarray(np.linalg.inv(curvature), dtype=np.float64)


def _loss(design: Floats, failed: Floats, theta: Floats, middle: Floats, precision: Floats) -> float:
    """Return the negative log posterior, up to a constant."""
    score, away = design @ theta, theta - middle
    return float((_softplus(score) - failed * score).sum() + 0.5 * away @ precision @ away)


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
        bins = np.array_split(order, min(MAX_POINTS, len(order)))
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
