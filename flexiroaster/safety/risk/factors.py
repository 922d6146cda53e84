"""The six-factor risk score: needs no training, and every number can be checked by hand.

score = 0.30 f1 + 0.25 f2 + 0.15 f3 + 0.10 f4 + 0.10 f5 + 0.10 f6, with each factor clipped to 0..1. Cancelled runs do
not count. The score ranks pipelines; it is not a probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from flexiroaster.safety.risk.state import PipelineState
from flexiroaster.safety.runs import DAY, Start

__all__ = ["Factor", "FactorScore", "factor_score"]

NEWEST_DURATIONS = 5


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor: the measured `value`, its `score` in 0..1 and its `weight`."""

    name: str
    value: float | None
    score: float
    weight: float
    description: str

    @property
    def contribution(self) -> float:
        """The factor's share of the total score: `weight` times `score`."""
        return self.weight * self.score


@dataclass(frozen=True, slots=True)
class FactorScore:
    """The six factors and their sum."""

    factors: tuple[Factor, ...]

    @property
    def score(self) -> float:
        """The sum of the contributions, in 0..1."""
        return sum(factor.contribution for factor in self.factors)


def factor_score(start: Start, past: PipelineState) -> FactorScore:
    """Return the score of a run start, from the runs that ended before it."""
    return FactorScore(tuple(_factors(start, past)))


def _factors(start: Start, past: PipelineState) -> Iterator[Factor]:
    month, week = past.window.counts(start.at, 30), past.window.counts(start.at, 7)
    yield _rate("failure_rate_30d", month, 1.5, 0.30, "the last 30 days")
    yield _rate("failure_rate_7d", week, 2.0, 0.25, "the last 7 days")
    failures = max(past.streak, 0)
    yield Factor("consecutive_failures", failures, _clip(failures / 3), 0.15, f"{failures} failures in a row")
    yield _duration_trend(past)
    yield _stages(start.n_stages)
    yield _since_success(start, past)


def _rate(name: str, counts: tuple[int, int], slope: float, weight: float, period: str) -> Factor:
    runs, failed = counts
    if runs == 0:
        return Factor(name, None, 0.0, weight, f"no run ended in {period}")
    rate = failed / runs
    return Factor(name, rate, _clip(slope * rate), weight, f"{failed} of {runs} runs failed in {period}")


def _duration_trend(past: PipelineState) -> Factor:
    name, weight = "duration_trend", 0.10
    usual = median(past.durations) if past.durations else 0.0
    if usual <= 0:
        return Factor(name, None, 0.0, weight, "no durations to compare")
    ratio = median(past.durations[-NEWEST_DURATIONS:]) / usual
    told = f"the last {min(len(past.durations), NEWEST_DURATIONS)} runs took {ratio:.2f} times the usual {usual:.3g} s"
    return Factor(name, ratio, _clip((ratio - 1) / 2), weight, told)


def _stages(n_stages: int | None) -> Factor:
    if n_stages is None:
        return Factor("stages", None, 0.0, 0.10, "the number of stages is unknown")
    return Factor("stages", n_stages, _clip(n_stages / 15), 0.10, f"{n_stages} stages")


def _since_success(start: Start, past: PipelineState) -> Factor:
    name, weight = "days_since_success", 0.10
    if past.last_success_at is not None:
        days = max(start.at - past.last_success_at, 0.0) / DAY
        return Factor(name, days, _clip(days / 7), weight, f"{days:.1f} days since the last success")
    if past.runs == 0:
        return Factor(name, None, 0.0, weight, "it has never run")
    return Factor(name, None, 1.0, weight, "it has never succeeded")


def _clip(score: float) -> float:
    return min(max(score, 0.0), 1.0)
