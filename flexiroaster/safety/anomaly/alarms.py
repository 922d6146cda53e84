"""Anomalies during a run: error rate spikes and frequent retries, with one alert a burst, and the count of alarms."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from flexiroaster.safety.risk.state import DAY, HOUR, DecayedRate, JsonState

__all__ = ["AlarmCount", "Alarms", "Anomaly", "AnomalyKind", "ErrorBurst", "RetryPile"]


WINDOW = HOUR
MEMORY = 7 * DAY
BEYOND_USUAL = 3.0
"""Errors or retries are abnormal from this many times their usual rate on."""


class AnomalyKind(StrEnum):
    """The kind of an anomaly."""

    LATE = "late"
    VOLUME = "volume"
    ERROR_BURST = "error_burst"
    RETRIES = "retries"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One anomaly: the observed and the usual value, and a message. `alert` is False during a cooldown."""

    kind: AnomalyKind
    observed: float
    usual: float
    message: str
    alert: bool = True


@dataclass(slots=True)
class ErrorBurst(JsonState):
    """The errors of one class in one pipeline: those of the last hour, and the usual number per hour."""

    recent: list[float] = field(default_factory=list)  # error times, seconds since 1970, oldest first
    since: float | None = None  # time of the first error ever
    weight: float = 0.0  # errors that left the window, halved every week
    weighed_at: float = 0.0
    bursting: bool = False

    def error(self, at: float, threshold: int = 5) -> Anomaly | None:
        """Count an error; return an anomaly if at least `threshold` errors within an hour form a burst."""
        if self.since is None:
            self.since = self.weighed_at = at
        self._forget(at)
        self.recent.append(at)
        usual = self.usual(at)
        if len(self.recent) < max(threshold, BEYOND_USUAL * usual):
            self.bursting = self.bursting and len(self.recent) > threshold / 2
            return None
        alert, self.bursting = not self.bursting, True
        message = f"{len(self.recent)} errors within an hour, usually {usual:.2g}"
        return Anomaly(AnomalyKind.ERROR_BURST, len(self.recent), usual, message, alert)

    def usual(self, now: float) -> float:
        """Return the usual errors per hour over the last weeks; errors and hours both halve in weight every week."""
        hours = (now - (self.since if self.since is not None else now)) / HOUR
        mean_life = MEMORY / HOUR / math.log(2)
        return self.weight / max(mean_life * -math.expm1(-hours / mean_life), 24.0)

    def _forget(self, now: float) -> None:
        """Move errors older than the window into the usual rate."""
        recent = [t for t in self.recent if t > now - WINDOW]
        faded: float = 0.5 ** (max(now - self.weighed_at, 0.0) / MEMORY)
        self.weight = self.weight * faded + len(self.recent) - len(recent)
        self.recent, self.weighed_at = recent, now
        if not recent:
            self.bursting = False


@dataclass(slots=True)
class RetryPile(JsonState):
    """The share of retries among a pipeline's stage attempts, recently and usually."""

    recent: DecayedRate = field(default_factory=lambda: DecayedRate(10.0))
    lasting: DecayedRate = field(default_factory=lambda: DecayedRate(300.0))
    piling: bool = False

    def attempt(self, *, repeated: bool) -> Anomaly | None:
        """Count an attempt; return an anomaly if retries are half of the latest and three times the usual share."""
        usual = self.lasting.shrunk(0.05, 20.0)
        self.recent.add(failed=repeated)
        self.lasting.add(failed=repeated)
        now = self.recent.shrunk(usual, 2.0)
        if now < max(0.5, BEYOND_USUAL * usual):
            self.piling = self.piling and now > 0.25
            return None
        alert, self.piling = not self.piling, True
        message = f"{100 * now:.0f} % of the latest attempts are retries, usually {100 * usual:.0f} %"
        return Anomaly(AnomalyKind.RETRIES, now, usual, message, alert)


@dataclass(slots=True)
class AlarmCount:
    """Finished runs with an alarm of one kind (`raised`), and how many of them completed (`false`)."""

    raised: int = 0
    false: int = 0

    @property
    def false_rate(self) -> float | None:
        """The share of false alarms; None before the first alarm."""
        return self.false / self.raised if self.raised else None


@dataclass(slots=True)
class Alarms(JsonState):
    """Alarm counts by kind. A run counts once per kind of alarm; cancelled runs do not count."""

    kinds: dict[str, AlarmCount] = field(default_factory=dict)

    def ended(self, kinds: Collection[str], *, completed: bool) -> None:
        """Count a finished run that had alarms of these kinds."""
        for kind in kinds:
            count = self.kinds.setdefault(kind, AlarmCount())
            count.raised += 1
            count.false += completed

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {kind: asdict(count) for kind, count in self.kinds.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the counts from `to_json` output."""
        return cls({kind: AlarmCount(**count) for kind, count in data.items()})
