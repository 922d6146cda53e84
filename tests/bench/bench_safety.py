"""The safety engine in memory: one assessment with its explanation, what would lower it, and a replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexiroaster.safety.learning.model_selection import Examples
from flexiroaster.safety.learning.training import fit_boosting, train
from flexiroaster.safety.risk.additive import score
from flexiroaster.safety.risk.assessment import AssessmentInput, assess, risk_reductions
from flexiroaster.safety.risk.calibration import sigmoid
from flexiroaster.safety.risk.factors import FEATURES, Past
from flexiroaster.safety.risk.history import feature_rows
from flexiroaster.safety.risk.model import PRIOR, Calibrated, RiskModel, Rung
from flexiroaster.safety.risk.state import Ending, Outcome, Start
from tests.unit.safety.histories import BEGINNING, made_up


@pytest.fixture(scope="module", params=["prior", "local"])
def question(request) -> AssessmentInput:
    """A pipeline with 2,000 earlier runs; locally a model of 150 trees."""
    past, history = Past(), made_up(1500)
    for i in range(2000):
        past.add(Ending(BEGINNING + i * 1800, Outcome.FAILED if i % 5 == 0 else Outcome.COMPLETED, 60.0))
    rows, known = feature_rows(history), ~np.isnan(history.target)
    model = RiskModel(background=rows[:100])
    if request.param == "local":
        trees = fit_boosting(rows[known], history.target[known])
        model = replace(model, local=Calibrated(trees)).with_choice(Rung.LOCAL, "bench")
    return AssessmentInput(Start("p", BEGINNING + 2001 * 1800, 6), past, model)


def test_assess_and_explain(benchmark, question: AssessmentInput) -> None:
    assess(question)
    benchmark.pedantic(assess, args=(question,), rounds=300)


def test_what_would_lower_it(benchmark, question: AssessmentInput) -> None:
    benchmark.pedantic(risk_reductions, args=(question,), rounds=20)


def test_features_of_10_000_starts(benchmark) -> None:
    history = made_up(10_000, pipelines=200)
    benchmark.pedantic(feature_rows, args=(history,), rounds=3)


def test_training_on_100_000(benchmark) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (100_000, len(FEATURES)))
    failed = (rng.random(100_000) < sigmoid(score(PRIOR, rows))).astype(float)
    started = np.arange(100_000.0)
    said = {rung: np.full(100_000, np.nan) for rung in Rung}
    examples = Examples(rows, failed, started, started + 0.5, said, np.full(100_000, 0.3))
    benchmark.pedantic(train, args=(RiskModel(), examples, 100_000), rounds=1)
