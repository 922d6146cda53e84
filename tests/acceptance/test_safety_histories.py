"""Requirements of the safety engine on real histories, which are next to the checkout and never part of it.

`make test` reads the beginning of each; `make histories` reads all of it, which takes minutes.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flexiroaster.safety.learning.backtest import Arm, Backtest, backtest, backtest_lateness
from flexiroaster.safety.learning.evaluation import Metrics
from flexiroaster.safety.risk.history import History, feature_rows, read_history, read_stages
from flexiroaster.safety.risk.model import PRIOR
from tests.unit.safety.brute_force import differences
from tools.prior_fit import Sample, fit_prior, left_out, read_sample

DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = ("hpc_ctc", "hpc_atlas", "gitlab_dune")

WHOLE = os.environ.get("SAFETY_HISTORIES") == "whole"
"""Whether all of each history is replayed, as `make histories` says."""

BEGINNING = 6000
"""How many runs otherwise: enough for local models to be trained, ten times and more."""

ECE = 0.03 if WHOLE else 0.05
"""The most that a calibration may be off; over the 1,800 judged runs of a beginning, chance alone is 0.02 of it."""

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real histories: {DATA} is not there")


def history(name: str) -> History:
    found = read_history(DATA / f"{name}.parquet")
    if WHOLE:
        return found
    columns = {field.name: getattr(found, field.name) for field in fields(found)}
    return replace(found, **{name: None if each is None else each[:BEGINNING] for name, each in columns.items()})


@cache
def result(name: str) -> Backtest:
    return backtest(history(name))


@cache
def samples() -> tuple[Sample, ...]:
    return tuple(read_sample(DATA / f"{name}.parquet") for name in SETS)


def figures(name: str, arm: str) -> Metrics:
    found: Arm = next(a for a in result(name).arms if a.name == arm)
    assert found.all is not None
    return found.all


def auc(metrics: Metrics | None) -> float:
    assert metrics is not None
    assert metrics.auc is not None
    return metrics.auc


@pytest.mark.parametrize(("name", "gain"), [("hpc_ctc", 0.05), ("hpc_atlas", 0.05), ("gitlab_dune", -0.005)])
def test_the_engine_ranks_better_than_the_factor_score(name: str, gain: float) -> None:
    assert auc(figures(name, "engine")) >= auc(figures(name, "factor_score")) + gain


@pytest.mark.parametrize("name", ["hpc_ctc", "hpc_atlas"])
def test_its_probabilities_are_calibrated(name: str) -> None:
    assert figures(name, "engine").ece <= ECE


@pytest.mark.parametrize("name", SETS)
def test_its_brier_score_is_better_than_that_of_the_factor_score(name: str) -> None:
    assert figures(name, "engine").brier < figures(name, "factor_score").brier


@pytest.mark.parametrize("name", SETS)
def test_a_prior_fitted_without_a_system_beats_the_factor_score_there(name: str) -> None:
    assert auc(left_out(samples(), name)[0]) > auc(figures(name, "factor_score"))


def test_the_shipped_prior_is_the_one_that_the_histories_give() -> None:
    model = fit_prior(samples())
    assert model.coefficients == pytest.approx(PRIOR.coefficients, abs=1e-4)
    assert model.intercept == pytest.approx(PRIOR.intercept, abs=1e-4)


def test_features_of_a_real_history_equal_the_definition_on_raw_rows() -> None:
    runs = history("hpc_atlas")
    sample = np.random.default_rng(0).choice(len(runs), 500, replace=False)
    assert differences(runs, feature_rows(runs), sample).max() < 1e-8


def test_late_stages_are_rarely_false_and_threefold_spikes_are_caught() -> None:
    stages = read_stages(DATA / "gitlab_dune_stages.parquet")
    found = backtest_lateness(read_history(DATA / "gitlab_dune.parquet"), stages)
    assert found.flagged <= 0.01 * found.stages
    assert found.spikes_caught >= 0.85 * found.watched
    assert found.watched > 15_000
