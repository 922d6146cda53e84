"""Rows or bytes far from what a stage usually gives, up or down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flexiroaster.safety.anomaly import Anomaly, AnomalyKind
from flexiroaster.safety.level import Level

__all__ = ["Volume"]

LEAST_RUNS = 5
LEAST_FACTOR = math.log(3.0)
WIDTH = 4.0


@dataclass(slots=True)
class Volume:
    """What is known of one number of one stage, such as its rows. `unit` is for the message."""

    unit: str = "rows"
    level: Level = field(default_factory=Level)

    def ended(self, amount: float) -> Anomaly | None:
        """A stage gave so many: learn from it, and say whether that is unusual.

        Unusual: more than a factor of three, and more than four standard deviations, from the usual log(1 + amount).
        """
        value = math.log1p(max(amount, 0.0))
        away, usual = value - self.level.mean, math.expm1(self.level.mean)
        far = self.level.values >= LEAST_RUNS and abs(away) > max(LEAST_FACTOR, WIDTH * self.level.spread())
        alert = self.level.add(value, beyond=far)
        if not far:
            return None
        message = f"{amount:.0f} {self.unit}, usually about {usual:.3g}"
        return Anomaly(AnomalyKind.VOLUME, amount, usual, message, alert)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"unit": self.unit, "level": self.level.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        return cls(data["unit"], Level.from_json(data["level"]))
