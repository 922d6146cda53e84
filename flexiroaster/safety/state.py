"""What is remembered of the past: a small state for each pipeline, each group of pipelines and the installation.

Every run that ends is added once, in the order of the ends; the cost does not depend on how many there were. The same
states serve a replay of 100,000 runs and a single question, so a question never reads the history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from flexiroaster.safety.runs import Ending, Outcome
from flexiroaster.safety.window import OutcomeWindow

__all__ = ["HALF_LIVES", "DecayedRate", "PipelineState", "Population", "Transitions"]

HALF_LIVES = (2.0, 5.0, 15.0)
"""In runs: how fast an outcome loses weight in a pipeline's recent failure rates."""

KEPT_DURATIONS = 500
LOG_DURATION_HALF_LIFE = 15.0


@dataclass(slots=True)
class DecayedRate:
    """Weighted counts in which a run weighs half as much as one `half_life` runs later."""

    half_life: float
    runs: float = 0.0
    failed: float = 0.0

    def add(self, *, failed: bool) -> None:
        """Count one run."""
        keep = 0.5 ** (1.0 / self.half_life)
        self.runs = self.runs * keep + 1.0
        self.failed = self.failed * keep + failed

    def shrunk(self, towards: float, strength: float) -> float:
        """The failure rate, drawn to `towards` as by `strength` runs with that rate."""
        return (self.failed + strength * towards) / (self.runs + strength)


@dataclass(slots=True)
class Transitions:
    """How often a failure followed a success, and how often a failure."""

    after_success: int = 0
    failed_after_success: int = 0
    after_failure: int = 0
    failed_after_failure: int = 0

    def add(self, *, before: bool, failed: bool) -> None:
        """Count one run whose predecessor ended as `before` (failed or not)."""
        if before:
            self.after_failure += 1
            self.failed_after_failure += failed
        else:
            self.after_success += 1
            self.failed_after_success += failed

    def shrunk(self, *, before: bool, towards: float, strength: float) -> float:
        """P(failure | how the run before ended), drawn to `towards`."""
        runs = self.after_failure if before else self.after_success
        failed = self.failed_after_failure if before else self.failed_after_success
        return (failed + strength * towards) / (runs + strength)


@dataclass(slots=True)
class PipelineState:
    """The past of one pipeline. `runs` counts those that completed or failed; cancelled ones are counted apart."""

    runs: int = 0
    failures: int = 0
    cancelled: int = 0
    recently_cancelled: float = 0.0  # decayed share of cancelled among all endings
    streak: int = 0  # failures in a row, or minus the number of successes in a row
    last_success_at: float | None = None
    last_ended_at: float | None = None
    rates: list[DecayedRate] = field(default_factory=lambda: [DecayedRate(h) for h in HALF_LIVES])
    transitions: Transitions = field(default_factory=Transitions)
    durations: list[float] = field(default_factory=list)  # seconds, of the newest runs, oldest first
    log_duration: float = 0.0
    log_duration_variance: float = 0.0
    window: OutcomeWindow = field(default_factory=OutcomeWindow)

    @property
    def last_failed(self) -> bool | None:
        """Whether the newest run that was not cancelled failed; None before the first."""
        return None if self.runs == 0 else self.streak > 0

    def add(self, ending: Ending) -> None:
        """Take a run that ended into account."""
        cancelled = ending.outcome is Outcome.CANCELLED
        self.recently_cancelled += (1 - 0.5 ** (1 / HALF_LIVES[1])) * (cancelled - self.recently_cancelled)
        self.last_ended_at = ending.at
        if cancelled:
            self.cancelled += 1
        else:
            self._add_outcome(ending, failed=ending.outcome is Outcome.FAILED)

    def _add_outcome(self, ending: Ending, *, failed: bool) -> None:
        if self.last_failed is not None:
            self.transitions.add(before=self.last_failed, failed=failed)
        for rate in self.rates:
            rate.add(failed=failed)
        self.runs += 1
        self.failures += failed
        if failed:
            self.streak = max(self.streak, 0) + 1
        else:
            self.streak = min(self.streak, 0) - 1
            self.last_success_at = ending.at
        self.window.add(ending.at, failed=failed)
        if ending.duration_s is not None:
            self._add_duration(ending.duration_s)

    def _add_duration(self, seconds: float) -> None:
        logarithm = math.log(max(seconds, 0.0) + 1.0)
        share = max(1 - 0.5 ** (1 / LOG_DURATION_HALF_LIFE), 1 / (len(self.durations) + 1))
        change = logarithm - self.log_duration
        self.log_duration += share * change
        self.log_duration_variance = (1 - share) * (self.log_duration_variance + share * change * change)
        self.durations.append(seconds)
        if len(self.durations) > KEPT_DURATIONS:
            del self.durations[0]

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "rates": [asdict(rate) for rate in self.rates],
            "transitions": asdict(self.transitions),
            "durations": list(self.durations),
            "window": {"points": list(self.window.points)},  # copied flat: asdict would walk through every point
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        nested = {
            "rates": [DecayedRate(**r) for r in data["rates"]],
            "transitions": Transitions(**data["transitions"]),
            "durations": list(data["durations"]),
            "window": OutcomeWindow([(at, n, bad) for at, n, bad in data["window"]["points"]]),
        }
        return cls(**{**data, **nested})


@dataclass(slots=True)
class Population:
    """The past of many pipelines together: those of a group, or all of an installation."""

    runs: int = 0
    failures: int = 0
    recent: DecayedRate = field(default_factory=lambda: DecayedRate(10.0))
    lasting: DecayedRate = field(default_factory=lambda: DecayedRate(1000.0))
    firsts: DecayedRate = field(default_factory=lambda: DecayedRate(100.0))  # first runs of pipelines
    transitions: Transitions = field(default_factory=Transitions)

    def add(self, ending: Ending, before: PipelineState) -> None:
        """Take a run into account; `before` is its pipeline's state without it."""
        if ending.outcome is Outcome.CANCELLED:
            return
        failed = ending.outcome is Outcome.FAILED
        self.runs += 1
        self.failures += failed
        self.recent.add(failed=failed)
        self.lasting.add(failed=failed)
        if before.last_failed is None:
            self.firsts.add(failed=failed)
        else:
            self.transitions.add(before=before.last_failed, failed=failed)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        rates = {name: DecayedRate(**data[name]) for name in ("recent", "lasting", "firsts")}
        return cls(**{**data, **rates, "transitions": Transitions(**data["transitions"])})
