"""The numbers computed from a run start and the runs that ended before it: the six-factor score and the features.

The score needs no training, and every number can be checked by hand: 0.30 f1 + 0.25 f2 + 0.15 f3 + 0.10 f4 + 0.10 f5 +
0.10 f6, with each factor clipped to 0..1. Cancelled runs do not count. The score ranks pipelines; it is not a
probability. The features feed the models; training and serving share one function.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from flexiroaster.safety.risk.state import DAY, HOUR, Ending, PipelineState, Population, Start, group_of

__all__ = ["DIRECTIONS", "FEATURES", "GROUPS", "Factor", "FactorScore", "Ledger", "Past", "factor_score", "features"]


GROUPS: dict[str, tuple[str, ...]] = {
    "recent failures": ("rate_2", "rate_5"),
    "streak": ("after_last", "failures_in_a_row", "successes_in_a_row"),
    "overall rate": ("rate_15", "rate_all"),
    "experience": ("log_runs", "first_run"),
    "rhythm": ("log_hours_since_success", "log_hours_since_last", "never_succeeded", "hour_sin", "hour_cos", "weekend"),
    "duration": ("log_duration", "duration_spread", "duration_trend"),
    "surroundings": ("group_lead", "group_recent", "group_rate", "installation_recent", "installation_rate"),
    "shape": ("log_stages", "stages_unknown", "cancelled_share"),
}
"""Correlated features under a readable name. Explanations attribute the risk to these groups."""

FEATURES: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)

DIRECTIONS: dict[str, int] = {
    **dict.fromkeys(("rate_2", "rate_5", "rate_15", "rate_all", "after_last", "failures_in_a_row"), 1),
    "successes_in_a_row": -1,
    **dict.fromkeys(("log_hours_since_success", "never_succeeded"), 1),
    **dict.fromkeys(("group_lead", "group_recent", "group_rate", "installation_recent", "installation_rate"), 1),
}
"""Features that can only raise (1) or only lower (-1) the risk, in every model: failures never reduce it."""

NO_RATE = 0.2
"""The failure rate assumed before the first run."""

MAX_HOURS = 24 * 60.0
"""The longest time since an earlier run that a feature tells apart."""

NEWEST_DURATIONS = 5


# --- factor score ---


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
    month, week = past.window.counts(start.at, 30), past.window.counts(start.at, 7)
    failures = max(past.streak, 0)
    factors = (
        _rate("failure_rate_30d", month, 1.5, 0.30, "the last 30 days"),
        _rate("failure_rate_7d", week, 2.0, 0.25, "the last 7 days"),
        Factor("consecutive_failures", failures, _clip(failures / 3), 0.15, f"{failures} failures in a row"),
        _duration_trend(past),
        _stages(start.n_stages),
        _since_success(start, past),
    )
    return FactorScore(factors)


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
    newest = min(len(past.durations), NEWEST_DURATIONS)
    text = f"the last {newest} runs took {ratio:.2f} times the usual {usual:.3g} s"
    return Factor(name, ratio, _clip((ratio - 1) / 2), weight, text)


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


# --- features ---


@dataclass(slots=True)
class Past:
    """The past known at a run start: the states of the pipeline, of its group and of the installation."""

    pipeline: PipelineState = field(default_factory=PipelineState)
    group: Population = field(default_factory=Population)
    installation: Population = field(default_factory=Population)

    def add(self, ending: Ending) -> None:
        """Add a finished run of this pipeline."""
        self.installation.add(ending, self.pipeline)
        self.group.add(ending, self.pipeline)
        self.pipeline.add(ending)


class Ledger:
    """The states of all pipelines, of their groups and of the installation."""

    def __init__(self) -> None:
        self.pipelines: defaultdict[str, PipelineState] = defaultdict(PipelineState)
        self.groups: defaultdict[str, Population] = defaultdict(Population)
        self.installation = Population()

    def past(self, pipeline_id: str) -> Past:
        """Return the past of a pipeline as known now."""
        return Past(self.pipelines[pipeline_id], self.groups[group_of(pipeline_id)], self.installation)

    def add(self, pipeline_id: str, ending: Ending) -> None:
        """Add a finished run; runs must be added in the order of their end times."""
        self.past(pipeline_id).add(ending)


def features(start: Start, past: Past) -> list[float]:
    """Return the features in the order of FEATURES. Rates are log-odds, times log(1 + hours), durations log(1 + s)."""
    own = past.pipeline
    base = past.installation.lasting.shrunk(NO_RATE, 10.0)
    nearby = past.group.lasting.shrunk(base, 5.0)
    rates = [_log_odds(rate.shrunk(nearby, 1.0)) for rate in own.rates]
    overall = _log_odds((own.failures + 2.0 * nearby) / (own.runs + 2.0))
    return [
        *rates[:2],
        *_streak(own, past, nearby),
        rates[2],
        overall,
        math.log1p(own.runs),
        float(own.runs == 0),
        *_rhythm(start, own),
        *_duration(own),
        *_surroundings(own, past, overall, base),
        _log_odds(nearby),
        _log_odds(past.installation.recent.shrunk(base, 5.0)),
        _log_odds(base),
        math.log1p(start.n_stages or 0),
        float(start.n_stages is None),
        own.recently_cancelled,
    ]


def _log_odds(rate: float) -> float:
    return math.log(rate / (1.0 - rate))


def _surroundings(own: PipelineState, past: Past, overall: float, base: float) -> tuple[float, float]:
    """Return the group's lead over the pipeline's own rate (weighted while that has few runs) and its recent rate."""
    recent = _log_odds(past.group.recent.shrunk(base, 2.0))
    return 5.0 / (5.0 + own.runs) * (recent - overall), recent


def _streak(own: PipelineState, past: Past, nearby: float) -> tuple[float, float, float]:
    before = own.last_failed
    if before is None:
        return _log_odds(past.installation.firsts.shrunk(nearby, 5.0)), 0.0, 0.0
    usual = past.installation.transitions.shrunk(before=before, towards=nearby, strength=5.0)
    after_last = own.transitions.shrunk(before=before, towards=usual, strength=3.0)
    return _log_odds(after_last), math.log1p(max(own.streak, 0)), math.log1p(max(-own.streak, 0))


def _rhythm(start: Start, own: PipelineState) -> tuple[float, ...]:
    angle = 2 * math.pi * (start.at % DAY) / DAY
    weekday = (start.at // DAY + 3) % 7  # 1970 began on a Thursday
    return (
        _log_hours(start.at, own.last_success_at),
        _log_hours(start.at, own.last_ended_at),
        float(own.last_success_at is None),
        math.sin(angle),
        math.cos(angle),
        float(weekday >= 5),
    )


def _log_hours(now: float, then: float | None) -> float:
    return math.log1p(MAX_HOURS if then is None else min(max(now - then, 0.0) / HOUR, MAX_HOURS))


def _duration(own: PipelineState) -> tuple[float, float, float]:
    if not own.durations:
        return 0.0, 0.0, 0.0
    newest = math.log1p(max(own.durations[-1], 0.0))
    return own.log_duration, math.sqrt(own.log_duration_variance), newest - own.log_duration
