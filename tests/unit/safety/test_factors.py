"""The documented six-factor score, against the numbers of its definition."""

from __future__ import annotations

import pytest

from flexiroaster.safety.risk.factors import factor_score
from flexiroaster.safety.risk.state import DAY, Ending, Outcome, PipelineState, Start

NOW = 100 * DAY
WEIGHTS = {
    "failure_rate_30d": 0.30,
    "failure_rate_7d": 0.25,
    "consecutive_failures": 0.15,
    "duration_trend": 0.10,
    "stages": 0.10,
    "days_since_success": 0.10,
}


def past(*runs: tuple[float, str, float]) -> PipelineState:
    """Runs as (days before now, status, seconds), oldest first."""
    state = PipelineState()
    for days, status, seconds in runs:
        state.add(Ending(NOW - days * DAY, Outcome(status), seconds))
    return state


def scores(state: PipelineState, stages: int | None = 3) -> dict[str, float]:
    return {f.name: f.score for f in factor_score(Start("p", NOW, stages), state).factors}


def test_the_weights_are_the_documented_ones() -> None:
    assert {f.name: f.weight for f in factor_score(Start("p", NOW), past()).factors} == WEIGHTS


def test_a_history_by_hand() -> None:
    state = past(
        *[(40, "failed", 10.0)] * 3,
        *[(20, "completed", 10.0)] * 6,
        (10, "failed", 10.0),
        (5, "completed", 30.0),
        (4, "completed", 30.0),
        (3.5, "completed", 30.0),
        (2, "cancelled", 900.0),
        (1, "failed", 30.0),
    )
    assert scores(state) == pytest.approx(
        {
            "failure_rate_30d": 1.5 * 2 / 11,
            "failure_rate_7d": 2 * 1 / 4,
            "consecutive_failures": 1 / 3,
            "duration_trend": (30 / 10 - 1) / 2,
            "stages": 3 / 15,
            "days_since_success": 3.5 / 7,
        }
    )


def test_the_score_is_the_sum_of_the_contributions() -> None:
    found = factor_score(Start("p", NOW, 3), past((2, "failed", 1.0), (1, "completed", 1.0)))
    assert found.score == pytest.approx(sum(f.weight * f.score for f in found.factors))
    assert found.score == pytest.approx(0.3 * 0.75 + 0.25 * 1.0 + 0.1 * 3 / 15 + 0.1 / 7)


def test_all_factors_are_clipped_to_one() -> None:
    state = past(*[(1, "completed", 1.0)] * 20, *[(0.5, "failed", 60.0)] * 9)
    worst = factor_score(Start("p", NOW + 30 * DAY, 99), state)
    assert max(f.score for f in worst.factors) == 1.0
    assert worst.score <= 1.0


def test_nothing_known_is_no_risk_and_never_a_success_is_full_risk() -> None:
    assert factor_score(Start("p", NOW), past()).score == 0.0
    assert scores(past((1, "failed", 1.0)))["days_since_success"] == 1.0


def test_an_empty_window_says_so() -> None:
    week = factor_score(Start("p", NOW), past((20, "failed", 1.0))).factors[1]
    assert week.value is None
    assert week.description == "no run ended in the last 7 days"
