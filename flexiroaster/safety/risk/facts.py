"""The facts in an explanation: for each feature group, the fact that best supports the group's contribution.

The features of a group can pull in different directions. The chosen fact points the same way as their sum, so that
failures never explain a low risk, nor successes a high one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.risk.additive import AdditiveModel
from flexiroaster.safety.risk.factors import DIRECTIONS, FEATURES, GROUPS, Past
from flexiroaster.safety.risk.state import DAY, HOUR, Start

__all__ = ["StartContext", "facts"]

Floats = NDArray[np.float64]

MIN_AMOUNT = 1e-9


@dataclass(frozen=True, slots=True)
class StartContext:
    """A run start with its known past, its features by name, and the features of a typical start."""

    start: Start
    past: Past
    values: Mapping[str, float]
    typical: Mapping[str, float]

    def rate(self, name: str) -> str:
        """Return the failure rate that a feature represents, with the typical one."""
        return f"about {_percent(self.values[name])}; {_percent(self.typical[name])} is typical"

    def above(self, name: str) -> bool:
        """Return whether a feature is greater than for a typical start."""
        return self.values[name] > self.typical[name]


def facts(context: StartContext, model: AdditiveModel, amounts: Mapping[str, float]) -> dict[str, str]:
    """Return the fact behind each group's amount, in words."""
    pushes = _pushes(context, model)
    return {group: _fact(group, pushes, amounts[group], context) for group in GROUPS}


def _pushes(context: StartContext, model: AdditiveModel) -> dict[str, float]:
    """Return how much each feature alone changes the score, compared with its typical value.

    0 where the model moves against the feature's direction, as models trained by an earlier release may.
    """
    row, usual = (np.array([values[name] for name in FEATURES]) for values in (context.values, context.typical))
    without = model.components(np.where(np.eye(len(FEATURES), dtype=bool), usual, row)).sum(axis=1)
    gains = model.components(row[None, :]).sum() - without
    against = np.array([DIRECTIONS.get(name, 0) for name in FEATURES]) * (row - usual) * gains < 0
    return dict(zip(FEATURES, np.where(against, 0.0, gains).tolist(), strict=True))


def _fact(group: str, pushes: Mapping[str, float], amount: float, context: StartContext) -> str:
    lead = max(GROUPS[group], key=lambda name: math.copysign(1.0, amount) * pushes[name])
    if abs(amount) < MIN_AMOUNT:
        return "nothing unusual"
    return _WORDS[lead](context) if pushes[lead] * amount > 0 else "several facts that matter only in combination"


def _percent(log_odds: float) -> str:
    return f"{100 / (1 + math.exp(-log_odds)):.0f} %"


def _failing_lately(s: StartContext, name: str) -> str:
    if s.past.pipeline.runs == 0:
        return f"no earlier runs; its group's failure rate is {s.rate(name)}"
    return f"its failure rate over the last few runs is {s.rate(name)}"


def _failing_overall(s: StartContext, name: str) -> str:
    own = s.past.pipeline
    if own.runs == 0:
        return f"no earlier runs; its group's failure rate is {s.rate(name)}"
    return f"{own.failures} of {own.runs} runs failed; including its group's runs, the rate is {s.rate(name)}"


def _after_last(s: StartContext) -> str:
    last = s.past.pipeline.last_failed
    after = "on a first run" if last is None else "after a failure" if last else "after a success"
    return f"{after} its failure rate is {s.rate('after_last')}"


def _in_a_row(s: StartContext, name: str, one: str, many: str) -> str:
    """Describe a streak, with the typical length where that is longer."""
    runs, usual = round(math.expm1(s.values[name])), math.expm1(s.typical[name])
    text = f"{runs or 'no'} {one if runs <= 1 else many} in a row"
    return text if s.above(name) else f"{text}; {usual:.1f} are typical"


def _hours(s: StartContext, name: str, since: str, otherwise: str) -> str:
    then = s.past.pipeline.last_success_at if name == "log_hours_since_success" else s.past.pipeline.last_ended_at
    if then is None:
        return otherwise
    hours = max(s.start.at - then, 0.0) / HOUR
    return f"{hours:.1f} hours since {since}; {math.expm1(s.typical[name]):.1f} are typical"


def _hour_of_day(s: StartContext) -> str:
    minutes = int(s.start.at % DAY) // 60
    return f"it starts at {minutes // 60:02d}:{minutes % 60:02d} UTC"


def _last_duration(s: StartContext) -> str:
    if not s.past.pipeline.durations:
        return "no durations recorded yet"
    newest = s.past.pipeline.durations[-1]
    return f"the last run took {newest:.3g} s" if newest < 100 else f"the last run took {newest:.0f} s"


def _trend(s: StartContext) -> str:
    return f"the last run took {math.exp(s.values['duration_trend']):.2f} times its usual duration"


def _group_lead(s: StartContext) -> str:
    """Describe the group's lead over the pipeline's own rate, which weighs less as the pipeline gets more runs."""
    own, group = _percent(s.values["rate_all"]), _percent(s.values["group_recent"])
    text = f"{group} of its group's runs failed recently, {own} of its own"
    if s.above("group_lead") == (s.values["group_lead"] > 0):
        return f"{text}: its group performs {'worse' if s.above('group_lead') else 'better'}"
    return f"its group differs less from it than is typical, or counts less after its own {s.past.pipeline.runs} runs"


def _stages(s: StartContext) -> str:
    return "unknown number of stages" if s.start.n_stages is None else f"{s.start.n_stages} stages"


_WORDS: dict[str, Callable[[StartContext], str]] = {
    "rate_2": lambda s: _failing_lately(s, "rate_2"),
    "rate_5": lambda s: _failing_lately(s, "rate_5"),
    "after_last": _after_last,
    "failures_in_a_row": lambda s: _in_a_row(s, "failures_in_a_row", "failure", "failures"),
    "successes_in_a_row": lambda s: _in_a_row(s, "successes_in_a_row", "success", "successes"),
    "rate_15": lambda s: _failing_overall(s, "rate_15"),
    "rate_all": lambda s: _failing_overall(s, "rate_all"),
    "log_runs": lambda s: f"{s.past.pipeline.runs} earlier runs",
    "first_run": lambda s: f"{s.past.pipeline.runs} earlier runs" if s.past.pipeline.runs else "it has never run",
    "log_hours_since_success": lambda s: _hours(s, "log_hours_since_success", "the last success", "no earlier success"),
    "log_hours_since_last": lambda s: _hours(s, "log_hours_since_last", "its last run ended", "no earlier runs"),
    "never_succeeded": lambda s: "no earlier success" if s.values["never_succeeded"] else "it has succeeded before",
    "hour_sin": _hour_of_day,
    "hour_cos": _hour_of_day,
    "weekend": lambda s: "on a weekend" if s.values["weekend"] else "on a weekday",
    "log_duration": _last_duration,
    "duration_spread": lambda s: f"its durations differ by a factor of {math.exp(s.values['duration_spread']):.2f}",
    "duration_trend": _trend,
    "group_lead": _group_lead,
    "group_recent": lambda s: f"its group's recent failure rate is {s.rate('group_recent')}",
    "group_rate": lambda s: f"its group's failure rate is {s.rate('group_rate')}",
    "installation_recent": lambda s: f"the recent failure rate of all pipelines is {s.rate('installation_recent')}",
    "installation_rate": lambda s: f"the failure rate of all pipelines is {s.rate('installation_rate')}",
    "log_stages": _stages,
    "stages_unknown": _stages,
    "cancelled_share": lambda s: f"{100 * s.values['cancelled_share']:.0f} % of its latest runs were cancelled",
}
