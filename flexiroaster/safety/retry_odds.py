"""Retry success rates, learned per error class and pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flexiroaster.errors import ErrorClass
from flexiroaster.safety.risk.state import DecayedRate

__all__ = ["RetryOdds"]

ASSUMED = {
    ErrorClass.TRANSIENT: 0.6,
    ErrorClass.TIMEOUT: 0.4,
    ErrorClass.CRASH: 0.3,
    ErrorClass.UNKNOWN: 0.3,
    ErrorClass.RESOURCE: 0.15,
}
"""P(a retry succeeds) assumed before any data, by judgment; 0.02 for other classes."""

HALF_LIFE = 50.0
STRENGTH = 4.0
LEAST_REPEATED = 10.0
"""The minimum weighted number of retries after errors of a class for its odds to count as known."""


@dataclass(slots=True)
class RetryOdds:
    """The retries of one pipeline, or of the installation, by the class of the preceding error."""

    classes: dict[str, DecayedRate] = field(default_factory=dict)

    def add(self, before: ErrorClass, *, succeeded: bool) -> None:
        """Count a finished retry; the attempt before it had failed with class `before`."""
        self.classes.setdefault(before.value, DecayedRate(HALF_LIFE)).add(failed=not succeeded)

    def knows(self, error_class: ErrorClass) -> bool:
        """Return whether enough retries after such an error were seen to know the odds."""
        seen = self.classes.get(error_class.value)
        return seen is not None and seen.runs >= LEAST_REPEATED

    def odds(self, error_class: ErrorClass, wider: RetryOdds | None = None) -> float:
        """Return P(a retry succeeds), shrunk toward the odds of `wider` (the installation), those toward ASSUMED."""
        towards = wider.odds(error_class) if wider is not None else ASSUMED.get(error_class, 0.02)
        seen = self.classes.get(error_class.value, DecayedRate(HALF_LIFE))
        return 1.0 - seen.shrunk(1.0 - towards, STRENGTH)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls({name: DecayedRate(**rate) for name, rate in data["classes"].items()})
