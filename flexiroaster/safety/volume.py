"""Volume anomalies: a stage's rows or bytes far above or below the usual amount."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.level import Level

__all__ = ["Volume"]

LEAST_RUNS = 5
LEAST_FACTOR = math.log(3.0)
WIDTH = 4.0


@dataclass(slots=True)
class Volume:
    """The learned level of one output count of one stage, such as its rows. `unit` appears in messages."""

    unit: str = "rows"
    level: Level = field(default_factory=Level)

    def ended(self, amount: float) -> Anomaly | None:
        """Learn from the amount a stage produced; return an anomaly if it is unusual.

        Unusual means more than a factor of three and more than four standard deviations from the usual, measured in
        log(1 + amount).
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
        """Return the state as JSON values."""
        return {"unit": self.unit, "level": self.level.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(data["unit"], Level.from_json(data["level"]))
