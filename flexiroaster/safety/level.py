"""The usual level and spread of a value measured once per run: an EWMA robust to outliers.

An alert starts a cooldown. Several consecutive values beyond the limit establish a new level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["Level"]

HALF_LIFE = 20.0
SHARE = 1 - 0.5 ** (1 / HALF_LIFE)
LEAST_VARIANCE = 0.01
LARGEST_STEP = 1.0
COOLDOWN = 10
NEW_LEVEL_AFTER = 3


@dataclass(slots=True)
class Level:
    """EWMA of a logarithm (Roberts, "Control Chart Tests Based on Geometric Moving Averages", 1959)."""

    mean: float = 0.0
    variance: float = 0.1
    values: int = 0
    beyond: int = 0  # consecutive values beyond the limit
    beyond_sum: float = 0.0
    quiet_until: int = 0  # no alert until this many values have been added

    @property
    def cooling(self) -> bool:
        """Whether the cooldown after an alert is still active."""
        return self.values < self.quiet_until

    def add(self, value: float, *, beyond: bool, expected: float = 0.0) -> bool:
        """Add a value and return whether to alert; `expected` is its expected distance from the mean."""
        alert = beyond and not self.cooling
        self._learn(value, expected)
        self._count(value, beyond=beyond)
        if alert:
            self.quiet_until = self.values + COOLDOWN
        return alert

    def _learn(self, value: float, expected: float) -> None:
        share = max(SHARE, 1 / (self.values + 1))
        away = value - self.mean
        self.mean += share * (away if self.values == 0 else max(-LARGEST_STEP, min(away, LARGEST_STEP)))
        surprise = 0.0 if self.values == 0 else min((away - expected) ** 2, 9 * (self.variance + LEAST_VARIANCE))
        self.variance += share * (surprise - self.variance) if self.values else 0.0
        self.values += 1

    def _count(self, value: float, *, beyond: bool) -> None:
        self.beyond = self.beyond + 1 if beyond else 0
        self.beyond_sum = self.beyond_sum + value if beyond else 0.0
        if self.beyond >= NEW_LEVEL_AFTER:
            self.mean, self.beyond, self.beyond_sum = self.beyond_sum / self.beyond, 0, 0.0
            self.quiet_until = self.values + COOLDOWN

    def spread(self) -> float:
        """Return the standard deviation."""
        return math.sqrt(self.variance + LEAST_VARIANCE)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(**data)
