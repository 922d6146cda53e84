"""How often another attempt succeeded, learned per class of error and pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flexiroaster.errors import ErrorClass
from flexiroaster.safety.state import DecayedRate

__all__ = ["RetryOdds"]

ASSUMED = {
    ErrorClass.TRANSIENT: 0.6,
    ErrorClass.TIMEOUT: 0.4,
    ErrorClass.CRASH: 0.3,
    ErrorClass.UNKNOWN: 0.3,
    ErrorClass.RESOURCE: 0.15,
}
"""P(success) of another attempt before anything is known, by judgement; other classes 0.02."""

HALF_LIFE = 50.0
STRENGTH = 4.0
LEAST_REPEATED = 10.0
"""Weighted repeated attempts after errors of a class, from which its odds are known."""


@dataclass(slots=True)
class RetryOdds:
    """The repeated attempts of one pipeline, or of an installation, by the class of the error before."""

    classes: dict[str, DecayedRate] = field(default_factory=dict)

    def add(self, before: ErrorClass, *, succeeded: bool) -> None:
        """A repeated attempt ended; the attempt before it had failed with class `before`."""
        self.classes.setdefault(before.value, DecayedRate(HALF_LIFE)).add(failed=not succeeded)

    def knows(self, error_class: ErrorClass) -> bool:
        """Whether so many repeated attempts were seen after such an error that the odds say something."""
        seen = self.classes.get(error_class.value)
        return seen is not None and seen.runs >= LEAST_REPEATED

    def odds(self, error_class: ErrorClass, wider: RetryOdds | None = None) -> float:
        """P(another attempt succeeds), drawn to the odds of `wider` (the installation), those to what is assumed."""
        towards = wider.odds(error_class) if wider is not None else ASSUMED.get(error_class, 0.02)
        seen = self.classes.get(error_class.value, DecayedRate(HALF_LIFE))
        return 1.0 - seen.shrunk(1.0 - towards, STRENGTH)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        return cls({name: DecayedRate(**rate) for name, rate in data["classes"].items()})
