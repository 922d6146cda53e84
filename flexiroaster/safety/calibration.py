"""From a score to a probability: beta calibration, drawn to the identity as long as there is little to learn from.

P = sigmoid(a ln s - b ln(1 - s) + c) with s = sigmoid(score); a = b = 1, c = 0 changes nothing, a = b is Platt scaling
(Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017). The normal prior on (a, b, c) makes it a small Bayesian
model: with no data it is the identity, and its interval is as wide as installations differ from one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["BetaCalibration", "log_odds", "sigmoid"]

Floats = NDArray[np.float64]

SLOPE_SPREAD = 0.3
"""Standard deviation of a and b between installations, before anything is known of this one."""

OFFSET_SPREAD = 0.6
"""Standard deviation of c between installations; docs/safety.md says where the two come from."""

LEAST_SLOPE = 0.05
_Z90 = 1.6448536269514722
_IDENTITY = np.array([1.0, 1.0, 0.0])
_TIED = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
_MOST_STEPS = 50
_PRECISION = np.diag([SLOPE_SPREAD**-2, SLOPE_SPREAD**-2, OFFSET_SPREAD**-2])


def sigmoid(score: Floats) -> Floats:
    """1 / (1 + exp(-score)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * score)), dtype=np.float64)


def log_odds(probability: Floats) -> Floats:
    """ln(p / (1 - p)), with p kept 1e-9 away from 0 and 1."""
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class BetaCalibration:
    """The fitted curve, and the covariance (3 x 3, row by row) of (a, b, c) at the fit."""

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0
    covariance: tuple[float, ...] = tuple(np.linalg.inv(_PRECISION).ravel().tolist())
    runs: int = 0

    def apply(self, score: Floats) -> Floats:
        """P for scores in log-odds, of any shape."""
        return sigmoid(self.a * -_softplus(-score) + self.b * _softplus(score) + self.c)

    def interval(self, score: float) -> tuple[float, float]:
        """The central 90 % interval of P at this score, from what is known of (a, b, c)."""
        design = _design(np.array([score]))[0]
        middle = float(design @ (self.a, self.b, self.c))
        spread = math.sqrt(float(design @ np.reshape(self.covariance, (3, 3)) @ design))
        low, high = sigmoid(np.array([middle - _Z90 * spread, middle + _Z90 * spread]))
        return float(low), float(high)

    @classmethod
    def fit(cls, score: Floats, failed: Floats, towards: BetaCalibration | None = None) -> Self:
        """The most probable curve for scores (log-odds) of runs whose outcome (1.0: failed) is known.

        It is drawn to the curve `towards`, or to the identity.
        """
        middle = _IDENTITY if towards is None else np.array([towards.a, towards.b, towards.c])
        theta, covariance = _fitted(_design(score), failed, middle, _PRECISION)
        if min(theta[:2]) < LEAST_SLOPE:  # the curve would fall: Platt's has one slope, which the prior keeps positive
            slope = np.array([middle[:2].mean(), middle[2]])
            tied, spread = _fitted(_design(score) @ _TIED, failed, slope, _TIED.T @ _PRECISION @ _TIED)
            theta, covariance = _TIED @ (max(tied[0], LEAST_SLOPE), tied[1]), _TIED @ spread @ _TIED.T
        a, b, c = theta.tolist()
        return cls(a, b, c, tuple(covariance.ravel().tolist()), len(score))

    def to_json(self) -> dict[str, Any]:
        """The curve as JSON values."""
        return {"a": self.a, "b": self.b, "c": self.c, "covariance": list(self.covariance), "runs": self.runs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The curve that `to_json` wrote."""
        return cls(data["a"], data["b"], data["c"], tuple(data["covariance"]), data["runs"])


def _softplus(score: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, score), dtype=np.float64)


def _design(score: Floats) -> Floats:
    return np.column_stack([-_softplus(-score), _softplus(score), np.ones(len(score))])


def _fitted(design: Floats, failed: Floats, middle: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """The most probable parameters and their covariance: Newton's method, each step halved until it helps."""
    theta, curvature = middle, precision
    for _ in range(_MOST_STEPS):
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
    """The negative log posterior, up to a constant."""
    score, away = design @ theta, theta - middle
    return float((_softplus(score) - failed * score).sum() + 0.5 * away @ precision @ away)
