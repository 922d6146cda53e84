"""The risk state: a small summary of the past for each pipeline, each pipeline group and the installation.

Every finished run is added once, in order of end time, at a cost independent of the number of earlier runs. Replays of
100,000 runs and single assessments use the same states, so an assessment never reads the history. Times are seconds
since 1970, UTC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any, Self, get_type_hints

__all__ = [
    "DAY",
    "HOUR",
    "DecayedRate",
    "Ending",
    "JsonState",
    "Outcome",
    "OutcomeWindow",
    "PipelineState",
    "Population",
    "Start",
    "group_of",
]

HOUR = 3600.0
DAY = 24 * HOUR

MAX_POINTS = 1500
"""Beyond this number, the points of an outcome window are merged by the hour, which leaves at most 721."""

HALF_LIVES = (2.0, 5.0, 15.0)
"""Half-lives, in runs, of the weight of an outcome in a pipeline's recent failure rates."""

LOG_DURATION_HALF_LIFE = 15.0
MAX_DURATIONS = 500


class Outcome(StrEnum):
    """The outcome of a run. Cancelled runs belong to the history but are never predicted."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is about to start; `n_stages` is None if unknown."""

    pipeline_id: str
    at: float
    n_stages: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run; `duration_s` is None if unknown."""

    at: float
    outcome: Outcome
    duration_s: float | None = None


def group_of(pipeline_id: str) -> str:
    """Return the group of a pipeline: its id up to the last slash, or an empty string without one."""
    return pipeline_id.rpartition("/")[0]


@dataclass(slots=True)
class JsonState:
    """A learned state that is stored as JSON values; fields of this type are restored too."""

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        nested = {name: kind.from_json(data[name]) for name, kind in _nested_states(cls).items()}  # type: ignore[arg-type]
        return cls(**{**data, **nested})


@cache
def _nested_states(cls: type[JsonState]) -> dict[str, type[JsonState]]:
    kinds = get_type_hints(cls).items()
    return {name: kind for name, kind in kinds if isinstance(kind, type) and issubclass(kind, JsonState)}


@dataclass(slots=True)
class OutcomeWindow:
    """Finished runs of the last 30 days, oldest first, as points (time, runs, failed).

    A point is one run until there are more than 1,500; then the points of each clock hour are merged into one, at the
    time of the latest. So rates are exact up to 1,500 runs in 30 days (one every 29 minutes); beyond that, the error is
    limited to the runs within one hour at the window's edge.
    """

    points: list[tuple[float, int, int]] = field(default_factory=list)

    def add(self, at: float, *, failed: bool) -> None:
        """Count one finished run; runs must be added in the order of their end times."""
        self.points.append((at, 1, int(failed)))
        if len(self.points) > MAX_POINTS:
            self._merge(at)

    def counts(self, now: float, days: float) -> tuple[int, int]:
        """Return the number of runs that ended in the `days` before `now`, and how many of them failed."""
        since, runs, failed = now - days * DAY, 0, 0
        for at, n, bad in reversed(self.points):
            if at < since:
                break
            runs += n
            failed += bad
        return runs, failed

    def _merge(self, now: float) -> None:
        merged: list[tuple[float, int, int]] = []
        for at, n, bad in self.points:
            if at < now - 30 * DAY:
                continue
            same_hour = merged and merged[-1][0] // HOUR == at // HOUR
            _, runs, failed = merged.pop() if same_hour else (at, 0, 0)
            merged.append((at, runs + n, failed + bad))
        self.points = merged


@dataclass(slots=True)
class DecayedRate(JsonState):
    """Exponentially weighted counts: a run weighs half as much as a run `half_life` runs later."""

    half_life: float
    runs: float = 0.0
    failed: float = 0.0

    def add(self, *, failed: bool) -> None:
        """Count one run."""
        keep = 0.5 ** (1.0 / self.half_life)
        self.runs = self.runs * keep + 1.0
        self.failed = self.failed * keep + failed

    def shrunk(self, towards: float, strength: float) -> float:
        """Return the failure rate, shrunk toward `towards` as if by `strength` runs with that rate."""
        return (self.failed + strength * towards) / (self.runs + strength)


@dataclass(slots=True)
class Transitions(JsonState):
    """Counts of failures that followed a success and that followed a failure."""

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
        """Return P(failure | whether the run `before` failed), shrunk toward `towards`."""
        runs = self.after_failure if before else self.after_success
        failed = self.failed_after_failure if before else self.failed_after_success
        return (failed + strength * towards) / (runs + strength)


@dataclass(slots=True)
class PipelineState(JsonState):
    """The past of one pipeline. `runs` counts completed and failed runs; `cancelled` counts the others."""

    runs: int = 0
    failures: int = 0
    cancelled: int = 0
    recently_cancelled: float = 0.0  # decayed share of cancelled runs among all endings
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
        """Add a finished run."""
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
        if len(self.durations) > MAX_DURATIONS:
            del self.durations[0]

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "rates": [asdict(rate) for rate in self.rates],
            "transitions": asdict(self.transitions),
            "durations": list(self.durations),
            "window": {"points": list(self.window.points)},  # a shallow copy: asdict would visit every point
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        nested = {
            "rates": [DecayedRate(**rate) for rate in data["rates"]],
            "transitions": Transitions(**data["transitions"]),
            "durations": list(data["durations"]),
            "window": OutcomeWindow([(at, n, bad) for at, n, bad in data["window"]["points"]]),
        }
        return cls(**{**data, **nested})


@dataclass(slots=True)
class Population(JsonState):
    """The combined past of several pipelines: those of a group, or all of an installation."""

    runs: int = 0
    failures: int = 0
    recent: DecayedRate = field(default_factory=lambda: DecayedRate(10.0))
    lasting: DecayedRate = field(default_factory=lambda: DecayedRate(1000.0))
    firsts: DecayedRate = field(default_factory=lambda: DecayedRate(100.0))  # first runs of pipelines
    transitions: Transitions = field(default_factory=Transitions)

    def add(self, ending: Ending, before: PipelineState) -> None:
        """Add a finished run; `before` is its pipeline's state without that run."""
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
