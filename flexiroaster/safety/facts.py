"""The facts behind an explanation: for each group of features the one that speaks most for what the group adds.

Several features of a group pull in several directions at once. The fact that is given is one that points the same way
as the sum, so that no failures are named as a reason for a low risk, nor successes for a high one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.additive import AdditiveModel
from flexiroaster.safety.features import DIRECTIONS, GROUPS, NAMES, Past
from flexiroaster.safety.runs import DAY, HOUR, Start

__all__ = ["Situation", "facts"]

Floats = NDArray[np.float64]

NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Situation:
    """A start with what is known of the past, its features by name, and those of a usual start."""

    start: Start
    past: Past
    here: Mapping[str, float]
    usual: Mapping[str, float]

    def rate(self, name: str) -> str:
        """The failure rate that a feature stands for, with the usual one."""
        return f"about {_percent(self.here[name])}; {_percent(self.usual[name])} is usual"

    def above(self, name: str) -> bool:
        """Whether a feature is greater than usual."""
        return self.here[name] > self.usual[name]


def facts(situation: Situation, model: AdditiveModel, amounts: Mapping[str, float]) -> dict[str, str]:
    """The fact behind each group's amount, in words."""
    pushes = _pushes(situation, model)
    return {group: _fact(group, pushes, amounts[group], situation) for group in GROUPS}


def _pushes(situation: Situation, model: AdditiveModel) -> dict[str, float]:
    """How much each feature alone changes the score against its usual value.

    0 where a model has it point against its direction, as one that an earlier release has trained may.
    """
    row, usual = (np.array([values[name] for name in NAMES]) for values in (situation.here, situation.usual))
    without = model.components(np.where(np.eye(len(NAMES), dtype=bool), usual, row)).sum(axis=1)
    gains = model.components(row[None, :]).sum() - without
    against = np.array([DIRECTIONS.get(name, 0) for name in NAMES]) * (row - usual) * gains < 0
    return dict(zip(NAMES, np.where(against, 0.0, gains).tolist(), strict=True))


def _fact(group: str, pushes: Mapping[str, float], amount: float, situation: Situation) -> str:
    lead = max(GROUPS[group], key=lambda name: math.copysign(1.0, amount) * pushes[name])
    if abs(amount) < NOTHING or pushes[lead] * amount <= 0:
        return "nothing unusual" if abs(amount) < NOTHING else "several facts that count only together"
    return _WORDS[lead](situation)


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _percent(log_odds: float) -> str:
    return f"{100 / (1 + math.exp(-log_odds)):.0f} %"


def _failing_lately(s: Situation, name: str) -> str:
    if s.past.pipeline.runs == 0:
        return f"no run before; by its group's runs its failure rate is {s.rate(name)}"
    return f"its failure rate over the last few runs is {s.rate(name)}"


def _failing_overall(s: Situation, name: str) -> str:
    own = s.past.pipeline
    if own.runs == 0:
        return f"no run before; by its group's runs its failure rate is {s.rate(name)}"
    return f"{own.failures} of {own.runs} runs failed; with its group's runs a failure rate of {s.rate(name)}"


def _after_last(s: Situation) -> str:
    last = s.past.pipeline.last_failed
    after = "at a first run" if last is None else "after a failure" if last else "after a success"
    return f"{after} its failure rate is {s.rate('after_last')}"


def _in_a_row(s: Situation, name: str, one: str, many: str) -> str:
    """A streak; with the usual one where that is longer, for it is short then."""
    runs, usual = round(math.expm1(s.here[name])), math.expm1(s.usual[name])
    told = f"{runs or 'no'} {one if runs <= 1 else many} in a row"
    return told if s.above(name) else f"{told}; {usual:.1f} are usual"


def _hours(s: Situation, name: str, since: str, otherwise: str) -> str:
    then = s.past.pipeline.last_success_at if name == "log_hours_since_success" else s.past.pipeline.last_ended_at
    if then is None:
        return otherwise
    hours = max(s.start.at - then, 0.0) / HOUR
    return f"{hours:.1f} hours since {since}; {math.expm1(s.usual[name]):.1f} are usual"


def _hour_of_day(s: Situation) -> str:
    minutes = int(s.start.at % DAY) // 60
    return f"it starts at {minutes // 60:02d}:{minutes % 60:02d} UTC"


def _last_duration(s: Situation) -> str:
    own = s.past.pipeline
    return f"the last run took {_seconds(own.durations[-1])} s" if own.durations else "no durations yet"


def _trend(s: Situation) -> str:
    return f"the last run took {math.exp(s.here['duration_trend']):.2f} times its usual duration"


def _group_lead(s: Situation) -> str:
    """What the group adds beyond the pipeline's own rate: a difference that weighs less the more runs it has."""
    own, group = _percent(s.here["rate_all"]), _percent(s.here["group_recent"])
    told = f"{group} of its group's runs failed lately, {own} of its own"
    if s.above("group_lead") == (s.here["group_lead"] > 0):
        return f"{told}: its group does {'worse' if s.above('group_lead') else 'better'}"
    return f"its group differs less from it than usual, or counts less after {s.past.pipeline.runs} runs of its own"


def _stages(s: Situation) -> str:
    return "unknown number of stages" if s.start.n_stages is None else f"{s.start.n_stages} stages"


_WORDS: dict[str, Callable[[Situation], str]] = {
    "rate_2": lambda s: _failing_lately(s, "rate_2"),
    "rate_5": lambda s: _failing_lately(s, "rate_5"),
    "after_last": _after_last,
    "failures_in_a_row": lambda s: _in_a_row(s, "failures_in_a_row", "failure", "failures"),
    "successes_in_a_row": lambda s: _in_a_row(s, "successes_in_a_row", "success", "successes"),
    "rate_15": lambda s: _failing_overall(s, "rate_15"),
    "rate_all": lambda s: _failing_overall(s, "rate_all"),
    "log_runs": lambda s: f"{s.past.pipeline.runs} earlier runs",
    "first_run": lambda s: f"{s.past.pipeline.runs} earlier runs" if s.past.pipeline.runs else "it has never run",
    "log_hours_since_success": lambda s: _hours(s, "log_hours_since_success", "the last success", "no success before"),
    "log_hours_since_last": lambda s: _hours(s, "log_hours_since_last", "its last run ended", "no run before"),
    "never_succeeded": lambda s: "no success before" if s.here["never_succeeded"] else "it has succeeded before",
    "hour_sin": _hour_of_day,
    "hour_cos": _hour_of_day,
    "weekend": lambda s: "at a weekend" if s.here["weekend"] else "on a weekday",
    "log_duration": _last_duration,
    "duration_spread": lambda s: f"its durations differ by a factor of {math.exp(s.here['duration_spread']):.2f}",
    "duration_trend": _trend,
    "group_lead": _group_lead,
    "group_recent": lambda s: f"its group's failure rate lately is {s.rate('group_recent')}",
    "group_rate": lambda s: f"its group's failure rate is {s.rate('group_rate')}",
    "installation_recent": lambda s: f"the failure rate of all pipelines lately is {s.rate('installation_recent')}",
    "installation_rate": lambda s: f"the failure rate of all pipelines is {s.rate('installation_rate')}",
    "log_stages": _stages,
    "stages_unknown": _stages,
    "cancelled_share": lambda s: f"{100 * s.here['cancelled_share']:.0f} % of its latest runs were cancelled",
}
