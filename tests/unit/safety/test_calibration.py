"""From scores to probabilities, and how sure one may be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from flexiroaster.safety.learning.evaluation import compare, drift
from flexiroaster.safety.risk.calibration import MAX_POINTS, BetaCalibration, VennAbers, log_odds, sigmoid

RNG = np.random.default_rng(1)


def outcomes(probability: np.ndarray) -> np.ndarray:
    return (RNG.random(len(probability)) < probability).astype(float)


def test_without_data_it_is_the_identity_with_a_wide_interval() -> None:
    curve, scores = BetaCalibration(), np.linspace(-30, 30, 61)
    assert curve.apply(scores) == pytest.approx(sigmoid(scores), abs=1e-12)
    low, high = curve.interval(0.0)
    assert low < 0.3 < 0.7 < high


def test_with_much_data_it_is_the_maximum_likelihood_fit() -> None:
    scores = RNG.normal(-1, 1.5, 40_000)
    s = sigmoid(scores)
    failed = outcomes(sigmoid(0.4 + 0.6 * np.log(s) - 1.4 * np.log(1 - s)))
    design = np.column_stack([np.log(s), -np.log(1 - s)])
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(design, failed)
    curve = BetaCalibration.fit(scores, failed)
    found = curve.apply(scores)
    assert (curve.a, curve.b, curve.c) == pytest.approx((0.6, 1.4, 0.4), abs=0.15)
    assert np.abs(found - peer.predict_proba(design)[:, 1]).max() < 0.005


def test_the_interval_narrows_with_data_and_holds_the_truth_nine_times_in_ten() -> None:
    hits = 0
    for _ in range(200):
        scores = RNG.normal(0, 1.5, 400)
        curve = BetaCalibration.fit(scores, outcomes(sigmoid(scores)))
        low, high = curve.interval(0.5)
        hits += low <= sigmoid(np.array(0.5)) <= high
    assert high - low < 0.2
    assert hits >= 170


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_never_falls_even_if_the_scores_mislead(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, 3000)
    curve = BetaCalibration.fit(scores, (rng.random(3000) < sigmoid(-scores)).astype(float))
    assert (np.diff(curve.apply(np.linspace(-8, 8, 100))) > 0).all()


def test_log_odds_and_sigmoid_undo_one_another() -> None:
    p = np.array([0.001, 0.2, 0.5, 0.999])
    assert sigmoid(log_odds(p)) == pytest.approx(p)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


def test_venn_abers_is_two_isotonic_regressions() -> None:
    scores = np.sort(RNG.normal(0, 1, MAX_POINTS))
    failed = outcomes(sigmoid(scores))
    steps = VennAbers.fit(scores, failed)
    for at in (0, 17, 100, MAX_POINTS - 1):
        for outcome, found in zip((0.0, 1.0), steps.interval(float(scores[at])), strict=True):
            x, y = np.append(scores, scores[at]), np.append(failed, outcome)
            expected = IsotonicRegression().fit(x, y).predict([scores[at]])[0]
            assert found == pytest.approx(expected, abs=1e-9)


def test_venn_abers_is_ordered_everywhere_and_needs_a_run() -> None:
    scores = RNG.normal(0, 1, 2000)
    steps = VennAbers.fit(scores, outcomes(sigmoid(scores)))
    assert all(low <= high for low, high in map(steps.interval, np.linspace(-5, 5, 50)))
    assert VennAbers.from_json(json.loads(json.dumps(steps.to_json()))) == steps
    with pytest.raises(ValueError, match="at least one finished run"):
        VennAbers.fit(np.array([]), np.array([]))


def test_a_comparison_sees_a_difference_and_not_noise() -> None:
    truth = sigmoid(RNG.normal(0, 1.5, 3000))
    failed = outcomes(truth)
    blurred = sigmoid(log_odds(truth) + RNG.normal(0, 1.0, 3000))
    assert compare(blurred, truth, failed).better
    assert compare(truth, blurred, failed).worse
    noise = sigmoid(log_odds(truth) + RNG.normal(0, 0.02, 3000))
    assert abs(compare(truth, noise, failed).t) < 3
    assert compare(blurred[:99], truth[:99], failed[:99]).t == 0.0


def test_of_two_equal_forecasters_hardly_any_is_promoted() -> None:
    promoted = 0
    for _ in range(300):
        truth = sigmoid(RNG.normal(-1, 1, 400))
        one, other = (sigmoid(log_odds(truth) + RNG.normal(0, 0.5, 400)) for _ in range(2))
        promoted += compare(one, other, outcomes(truth)).better
    assert promoted <= 20


def test_drift_is_silent_while_probabilities_hold_and_loud_when_they_do_not() -> None:
    p = np.full(500, 0.2)
    assert not drift(p, outcomes(p)).drifting
    broken = drift(p, outcomes(np.full(500, 0.4)))
    assert broken.drifting
    assert broken.observed > broken.expected
    assert not drift(p[:20], np.ones(20)).drifting
