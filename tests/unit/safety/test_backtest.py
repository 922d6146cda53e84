"""The backtest on histories made up for it: its figures against scikit-learn's and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flexiroaster.safety.learning.backtest import ARMS, Backtest, backtest
from flexiroaster.safety.learning.evaluation import measure
from flexiroaster.safety.policy import Thresholds
from flexiroaster.safety.risk.history import History
from flexiroaster.safety.risk.state import Outcome
from tests.unit.safety.histories import made_up


@pytest.fixture(scope="module")
def history() -> History:
    return made_up(1200)


@pytest.fixture(scope="module")
def result(history: History) -> Backtest:
    return backtest(history, Thresholds(0.3, 0.5))


def test_the_newest_part_is_judged_and_cancelled_runs_are_not(history: History, result: Backtest) -> None:
    judged = result.predictions.filter("judged")
    assert len(judged) == 360
    known = [o for o in history.outcome[840:] if o is not Outcome.CANCELLED]
    assert [arm.name for arm in result.arms] == list(ARMS)
    assert {arm.all.runs for arm in result.arms if arm.all and arm.name != "local"} == {len(known)}


def test_the_figures_are_those_of_the_predictions(result: Backtest) -> None:
    rows = [r for r in result.predictions.iter_rows(named=True) if r["judged"] and r["status"] != "cancelled"]
    failed, said = np.array([r["status"] == "failed" for r in rows]), np.array([r["engine"] for r in rows])
    engine = next(arm for arm in result.arms if arm.name == "engine")
    assert engine.all is not None
    assert engine.all.auc == pytest.approx(roc_auc_score(failed, said))
    assert engine.all.brier == pytest.approx(np.mean((said - failed) ** 2))
    stopped = said >= 0.5
    gate = result.gate
    assert (gate.rightly, gate.wrongly) == ((stopped & failed).sum(), (stopped & ~failed).sum())
    assert gate.rightly + gate.missed == failed.sum()


def test_the_result_is_strict_json(result: Backtest) -> None:
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["executions"] == 1200
    assert len(data["trainings"]) >= 1
    assert data["drift"]["runs"] == result.arms[-1].all.runs
    assert data["drift"]["drifting"] is False


def test_one_run_and_one_outcome_only_have_figures_too() -> None:
    one = backtest(made_up(1, cancelled=0.0))
    assert one.arms[0].all is not None
    assert one.arms[0].all.auc is None
    json.dumps(one.to_json(), allow_nan=False)
    cancelled = backtest(made_up(5, cancelled=1.0))
    assert cancelled.arms[0].all is None


def test_the_share_is_checked(history: History) -> None:
    with pytest.raises(ValueError, match="share must be"):
        backtest(history, share=0.0)


def test_metrics_by_hand() -> None:
    said = np.array([0.1, 0.2, 0.8, 0.9, 0.5, 0.5, 0.3, 0.4])
    failed = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    found = measure(said, failed, ["a", "a", "b", "b", "c", "c", "c", "c"])
    assert found is not None
    assert found.auc_within == pytest.approx((1 * 1 + 1 * 1 + 4 * (1 + 0.5 + 1) / 4) / 6)
    assert found.brier_skill == pytest.approx(1 - found.brier / 0.25)
    assert found.recall == pytest.approx(1 / 4)
    assert found.ece == pytest.approx(np.abs(np.sort(said) - failed[np.argsort(said, kind="stable")]).mean())


def test_calibrated_probabilities_have_a_small_error_and_shifted_ones_a_large_one() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    failed = (rng.random(50_000) < p).astype(float)
    names = ["a"] * 50_000
    good, bad = measure(p, failed, names), measure(np.clip(p + 0.1, 0, 1), failed, names)
    assert good is not None
    assert bad is not None
    assert good.ece < 0.01 < 0.08 < bad.ece
    assert len(good.reliability) == 15
