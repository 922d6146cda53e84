"""The features computed from raw rows, by their definitions and without any state: slow, and hard to get wrong."""

from __future__ import annotations

import math

import numpy as np

from flexiroaster.safety.risk.factors import FEATURES
from flexiroaster.safety.risk.history import History
from flexiroaster.safety.risk.state import DAY, HOUR, Outcome, group_of


class BruteForce:
    """Looks at each start through all rows that had ended before it."""

    def __init__(self, history: History) -> None:
        self.h = history
        self.failed = np.array([o is Outcome.FAILED for o in history.outcome])
        self.counts = np.array([o is not Outcome.CANCELLED for o in history.outcome])
        self.names = np.array(history.pipeline_id)
        self.groups = np.array([group_of(name) for name in history.pipeline_id])
        ids = history.execution_id or [""] * len(self.names)
        self.by_end = np.lexsort((np.array(ids), self.names, history.finished_at))
        self.before = self._outcome_before()

    def _outcome_before(self) -> np.ndarray:
        """For each row the outcome of its pipeline's run that ended last before it: 1, 0, or -1 for none."""
        last, before = {}, np.full(len(self.names), -1)
        for row in self.by_end[self.counts[self.by_end]]:
            before[row] = last.get(self.names[row], -1)
            last[self.names[row]] = int(self.failed[row])
        return before

    def features(self, row: int) -> dict[str, float]:
        now = self.h.started_at[row]
        ended = self.by_end[self.h.finished_at[self.by_end] < now]
        own_all = ended[self.names[ended] == self.names[row]]
        counted = ended[self.counts[ended]]
        own, group = counted[self.names[counted] == self.names[row]], counted[self.groups[counted] == self.groups[row]]
        base = rate(self.failed[counted], 1000, 0.2, 10)
        nearby = rate(self.failed[group], 1000, base, 5)
        past = self.failed[own]
        overall = logit((past.sum() + 2 * nearby) / (len(past) + 2))
        recent = logit(rate(self.failed[group], 10, base, 2))
        return {
            **{f"rate_{h}": logit(rate(past, h, nearby, 1)) for h in (2, 5, 15)},
            "rate_all": overall,
            **self._streak(past, own, counted, nearby),
            "log_runs": math.log1p(len(past)),
            "first_run": float(len(past) == 0),
            **self._rhythm(now, own, own_all),
            **self._duration(own),
            "group_lead": 5 / (5 + len(past)) * (recent - overall),
            "group_recent": recent,
            "group_rate": logit(nearby),
            "installation_recent": logit(rate(self.failed[counted], 10, base, 5)),
            "installation_rate": logit(base),
            "log_stages": math.log1p(self.h.n_stages[row] or 0),
            "stages_unknown": float(self.h.n_stages[row] is None),
            "cancelled_share": sum(
                (1 - 0.5**0.2) * 0.5 ** (k / 5) * ~c for k, c in enumerate(self.counts[own_all][::-1])
            ),
        }

    def _streak(self, past, own, counted, nearby) -> dict[str, float]:
        if len(past) == 0:
            firsts = counted[self.before[counted] == -1]
            return {
                "after_last": logit(rate(self.failed[firsts], 100, nearby, 5)),
                "failures_in_a_row": 0.0,
                "successes_in_a_row": 0.0,
            }
        alike = self.failed[counted[self.before[counted] == past[-1]]]
        usual = (alike.sum() + 5 * nearby) / (len(alike) + 5)
        after = past[1:][past[:-1] == past[-1]]
        streak = next((k for k, outcome in enumerate(past[::-1]) if outcome != past[-1]), len(past))
        return {
            "after_last": logit((after.sum() + 3 * usual) / (len(after) + 3)),
            "failures_in_a_row": math.log1p(streak if past[-1] else 0),
            "successes_in_a_row": math.log1p(0 if past[-1] else streak),
        }

    def _rhythm(self, now, own, own_all) -> dict[str, float]:
        good = own[~self.failed[own]]
        hour = 2 * math.pi * (now % DAY) / DAY
        return {
            "log_hours_since_success": hours(now, self.h.finished_at[good]),
            "log_hours_since_last": hours(now, self.h.finished_at[own_all]),
            "never_succeeded": float(len(good) == 0),
            "hour_sin": math.sin(hour),
            "hour_cos": math.cos(hour),
            "weekend": float(np.datetime64(int(now), "s").astype("datetime64[D]").astype(object).weekday() >= 5),
        }

    def _duration(self, own) -> dict[str, float]:
        logs, mean, variance = [math.log1p(self.h.duration_s[r]) for r in own], 0.0, 0.0
        for k, value in enumerate(logs):
            share = max(1 - 0.5 ** (1 / 15), 1 / (k + 1)) if k < 500 else 1 - 0.5 ** (1 / 15)
            variance = (1 - share) * (variance + share * (value - mean) ** 2)
            mean += share * (value - mean)
        trend = logs[-1] - mean if logs else 0.0
        return {"log_duration": mean, "duration_spread": math.sqrt(variance), "duration_trend": trend}


def rate(failed: np.ndarray, half_life: float, towards: float, strength: float) -> float:
    weights = 0.5 ** (np.arange(len(failed))[::-1] / half_life)
    return (float(weights @ failed) + strength * towards) / (float(weights.sum()) + strength)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def hours(now: float, times: np.ndarray) -> float:
    return math.log1p(min((now - times[-1]) / HOUR, 1440.0) if len(times) else 1440.0)


def differences(history: History, rows: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """The largest difference between `rows` and the raw definition, for each start of a sample."""
    brute = BruteForce(history)
    found = []
    for row in sample:
        expected = brute.features(row)
        assert set(expected) == set(FEATURES)
        found.append(max(abs(expected[name] - value) for name, value in zip(FEATURES, rows[row], strict=True)))
    return np.array(found)
