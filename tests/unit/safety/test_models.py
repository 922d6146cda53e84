"""Models as plain numbers, training, and which one answers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from flexiroaster.errors import ConflictError
from flexiroaster.safety.learning import training as fitting
from flexiroaster.safety.learning.evaluation import log_loss
from flexiroaster.safety.learning.model_selection import Examples, refresh, refresh_due, training_due
from flexiroaster.safety.learning.replay import Learned, replay_learning
from flexiroaster.safety.learning.training import train
from flexiroaster.safety.risk.additive import GROUP_OF, AdditiveTrees, LinearModel, model_from_json, score
from flexiroaster.safety.risk.calibration import VennAbers, log_odds, sigmoid
from flexiroaster.safety.risk.factors import DIRECTIONS, FEATURES, GROUPS
from flexiroaster.safety.risk.history import History, feature_rows
from flexiroaster.safety.risk.model import PRIOR, Calibrated, RiskModel, Rung, simulated_background
from flexiroaster.safety.risk.state import Outcome
from tests.unit.safety.histories import made_up


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, len(FEATURES)))


LATER = 1e6
"""Seconds: after all other examples."""


def examples(
    x: np.ndarray, truth: np.ndarray, champion: np.ndarray, seed: int = 3, begin: float = 0.0, **said: np.ndarray
) -> Examples:
    failed = (np.random.default_rng(seed).random(len(truth)) < truth).astype(float)
    started = np.arange(len(x), dtype=float) * 60 + begin
    nothing = np.full(len(x), np.nan)
    all_said = {rung: said.get(rung.name.lower(), nothing) for rung in Rung}
    return Examples(x, failed, started, started + 30, all_said, champion)


@pytest.fixture(scope="module")
def learnable() -> Examples:
    """Something the prior cannot know: failures at night, with many stages."""
    x = rows(3000)
    truth = sigmoid(-1.5 + 2.5 * x[:, FEATURES.index("hour_sin")] + 1.5 * x[:, FEATURES.index("log_stages")])
    return examples(x, truth, sigmoid(score(PRIOR, x)))


def test_trees_taken_over_score_as_scikit_learn_does(monkeypatch, learnable: Examples) -> None:
    kept = []
    take_over = fitting._trees_as_arrays
    monkeypatch.setattr(fitting, "_trees_as_arrays", lambda model: kept.append(model) or take_over(model))
    trees = fitting.fit_boosting(learnable.rows, learnable.failed)
    peer: HistGradientBoostingClassifier = kept[0]
    assert np.abs(score(trees, rows(500, 9)) - peer.decision_function(rows(500, 9))).max() < 1e-9


def test_a_value_on_the_threshold_goes_left() -> None:
    tree = {"feature": [[0, 0, 0]], "threshold": [[1.0, 0, 0]], "left": [[1, 1, 2]], "right": [[2, 1, 2]]}
    rest = {"value": [[0.0, -5.0, 5.0]], "group": [0], "intercept": 0.0, "depth": 1, "names": list(FEATURES)}
    at, above = np.zeros((1, len(FEATURES))), np.zeros((1, len(FEATURES)))
    at[0, 0], above[0, 0] = 1.0, 1.0001
    model = AdditiveTrees.from_json({**tree, **rest})
    assert (score(model, at)[0], score(model, above)[0]) == (-5.0, 5.0)


def test_each_tree_knows_one_group_only(learnable: Examples) -> None:
    trees = fitting.fit_boosting(learnable.rows, learnable.failed)
    inner = trees.left != np.arange(trees.left.shape[1])
    assert (GROUP_OF[trees.feature] == trees.group[:, None])[inner].all()


def test_components_belong_to_their_group(learnable: Examples) -> None:
    for model in (fitting.fit_boosting(learnable.rows, learnable.failed), PRIOR):
        x = rows(1)
        for number, names in enumerate(GROUPS.values()):
            changed = x.copy()
            changed[:, [FEATURES.index(name) for name in names]] += 1.5
            moved = np.flatnonzero(np.abs(model.components(changed) - model.components(x))[0] > 1e-12)
            assert set(moved) <= {number}


def test_models_survive_json(learnable: Examples) -> None:
    for fit in (fitting.fit_boosting, fitting.fit_logistic):
        model = fit(learnable.rows, learnable.failed)
        again = model_from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
        assert (score(again, learnable.rows) == score(model, learnable.rows)).all()


def test_a_model_of_another_version_is_refused(learnable: Examples) -> None:
    stored = fitting.fit_boosting(learnable.rows, learnable.failed).to_json()
    with pytest.raises(ConflictError, match="retrain it"):
        AdditiveTrees.from_json({**stored, "names": ["other"]})
    with pytest.raises(ConflictError, match="kind is 'pickle'"):
        model_from_json({"kind": "pickle"})
    with pytest.raises(ConflictError, match="unknown features: nonsense"):
        LinearModel({"nonsense": 1.0}, 0.0)
    with pytest.raises(ConflictError, match="another version"):
        RiskModel.from_json({**RiskModel().to_json(), "format": 0})


def test_a_better_challenger_is_promoted_and_answers(learnable: Examples) -> None:
    training = train(RiskModel(), learnable, len(learnable))
    assert training.promoted
    assert training.model.rung is Rung.LOCAL
    assert "promoted: log loss" in training.model.reason
    row = learnable.rows[0]
    prediction = training.model.predict(row)
    assert prediction.low <= prediction.probability <= prediction.high
    assert prediction.rung is Rung.LOCAL


def test_a_challenger_that_is_no_better_is_not_promoted() -> None:
    x = rows(3000)
    truth = sigmoid(score(PRIOR, x))
    training = train(RiskModel(), examples(x, truth, truth), 3000)
    assert training.challenger is not None
    assert not training.promoted
    assert training.model.rung is Rung.PRIOR
    assert training.model.local is None


def test_training_is_reproducible_and_names_its_data(learnable: Examples) -> None:
    one, two = (train(RiskModel(), learnable, 3000, seed=7) for _ in range(2))
    assert one.model.version == two.model.version
    assert one.data_hash == two.data_hash
    other = learnable.take(slice(0, 2999))
    assert train(RiskModel(), other, 2999).data_hash != one.data_hash


def test_too_little_is_not_trained_on(learnable: Examples) -> None:
    training = train(RiskModel(), learnable.take(slice(0, 400)), 400)
    assert training.challenger is None
    assert "no model was trained" in training.reason
    same = replace(learnable, failed=np.zeros(3000))
    assert train(RiskModel(), same, 3000).challenger is None


def test_training_uses_only_outcomes_known_before_the_part_it_is_judged_on(monkeypatch, learnable: Examples) -> None:
    """Runs that end after the newest part began teach nothing to the model compared there."""
    late = replace(learnable, finished_at=np.where(np.arange(3000) < 2550, 1e12, learnable.finished_at))
    assert train(RiskModel(), late, 3000).challenger is None


def test_the_prior_steps_up_when_recalibrated_is_better_and_back_when_worse() -> None:
    x = rows(1500)
    prior = sigmoid(score(PRIOR, x))
    truth = sigmoid(score(PRIOR, x) - 1.5)
    up = refresh(RiskModel(), examples(x, truth, prior, prior=prior, recalibrated=truth), 1500)
    assert up.rung is Rung.RECALIBRATED
    assert up.recalibrated.steps is not None
    assert np.abs(up.probabilities(x)[Rung.RECALIBRATED] - truth).mean() < 0.05
    back = refresh(up, examples(x, prior, truth, prior=prior, recalibrated=truth), 3000)
    assert back.rung is Rung.PRIOR
    assert "stepped back" in back.reason


def test_a_local_model_that_has_become_worse_gives_way(learnable: Examples) -> None:
    local = train(RiskModel(), learnable, 3000).model
    x = rows(1500, 5)
    prior = sigmoid(score(PRIOR, x))
    said = local.probabilities(x)[Rung.LOCAL]
    changed = examples(x, prior, said, begin=LATER, prior=prior, recalibrated=prior, local=said)
    assert refresh(local, changed, 4500).rung is Rung.RECALIBRATED


def test_a_new_local_model_is_not_judged_by_what_an_earlier_one_said(learnable: Examples) -> None:
    x = learnable.rows
    prior, bad = sigmoid(score(PRIOR, x)), np.full(len(x), 0.999)
    local = train(RiskModel(), learnable, 3000).model
    before = replace(learnable, predictions={**learnable.predictions, Rung.RECALIBRATED: prior, Rung.LOCAL: bad})
    assert refresh(local, before, 3000).rung is Rung.LOCAL


def shifted(local: RiskModel, seed: int, model: RiskModel | None = None) -> Examples:
    """2,000 later runs that fail more often than the local model says, and what `model` says of them."""
    x = rows(2000, seed)
    truth = sigmoid(log_odds(local.probabilities(x)[Rung.LOCAL]) + 1.0)
    said = {rung.name.lower(): values for rung, values in (model or local).probabilities(x).items()}
    return examples(x, truth, said["local"], begin=seed * LATER, **said)


def test_a_local_model_is_recalibrated_as_outcomes_come(learnable: Examples) -> None:
    local = train(RiskModel(), learnable, 3000).model
    once = refresh(local, shifted(local, 1), 5000)
    assert once.rung is Rung.LOCAL, "nothing that the new curve said can be judged yet"
    twice = refresh(once, shifted(local, 2, once), 7000)
    assert twice.rung is Rung.RECALIBRATED_LOCAL
    new = shifted(local, 3, twice)
    losses = [log_loss(new.predictions[rung], new.failed).mean() for rung in (Rung.RECALIBRATED_LOCAL, Rung.LOCAL)]
    assert losses[0] < losses[1] - 0.02
    worse = replace(new, failed=examples(new.rows, new.predictions[Rung.LOCAL], new.champion).failed)
    assert refresh(twice, worse, 9000).rung is Rung.LOCAL, "it steps back when that was better"


def test_a_local_model_is_not_recalibrated_on_the_runs_it_was_fitted_on(learnable: Examples) -> None:
    local = train(RiskModel(), learnable, 3000).model
    assert refresh(local, learnable, 3000).recalibrated_local is None
    later, both = shifted(local, 1), shifted(local, 1)
    both = Examples(
        np.vstack([learnable.rows, later.rows]),
        np.concatenate([learnable.failed, later.failed]),
        np.concatenate([learnable.started_at, later.started_at]),
        np.concatenate([learnable.finished_at, later.finished_at]),
        {rung: np.concatenate([learnable.predictions[rung], later.predictions[rung]]) for rung in Rung},
        np.concatenate([learnable.champion, later.champion]),
    )
    assert refresh(local, both, 5000).recalibrated_local == refresh(local, later, 5000).recalibrated_local


@pytest.mark.parametrize("fit", [fitting.fit_logistic, fitting.fit_boosting])
def test_failures_never_speak_for_a_run(fit) -> None:
    """Also where they do so in the data: each feature with a direction had the opposite effect."""
    x = rows(2000, 4)
    directions = np.array([DIRECTIONS.get(name, 0) for name in FEATURES])
    failed = (np.random.default_rng(0).random(2000) < sigmoid(-x @ directions)).astype(float)
    model, change = fit(x, failed), np.random.default_rng(1).exponential(1.0, (500, len(FEATURES)))
    before = rows(500, 5)
    raised = model.components(before + change * directions) - model.components(before)
    assert (raised > -1e-12).all()


def test_without_bounds_that_bind_the_regression_is_that_of_scikit_learn() -> None:
    x = rows(2000, 4)
    failed = (np.random.default_rng(0).random(2000) < sigmoid(score(PRIOR, x))).astype(float)
    names = ("rate_2", "log_runs", "failures_in_a_row", "hour_sin")
    found, used = fitting.fit_logistic(x, failed, names), x[:, [FEATURES.index(name) for name in names]]
    peer = LogisticRegression(C=0.1, tol=1e-8).fit(used / used.std(axis=0), failed)
    assert list(found.coefficients.values()) == pytest.approx((peer.coef_[0] / used.std(axis=0)).tolist(), abs=1e-4)


def test_when_learning_is_due() -> None:
    model = RiskModel()
    assert [n for n in (9, 10, 11) if refresh_due(model, n)] == [10, 11]
    assert [n for n in (499, 500) if training_due(model, n)] == [500]
    later = replace(model, runs_at_training=10_000, runs_at_refresh=10_000)
    assert not training_due(later, 12_499)
    assert training_due(later, 12_500)
    assert not refresh_due(later, 10_499)


def test_the_whole_state_survives_json(learnable: Examples) -> None:
    local = train(RiskModel(), learnable, 3000).model
    recalibrated = refresh(local, shifted(local, 1), 5000).with_choice(Rung.RECALIBRATED_LOCAL, "test")
    for model in (RiskModel(), local, recalibrated):
        again = RiskModel.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
        assert again.version == model.version
        assert again.predict(learnable.rows[1]) == model.predict(learnable.rows[1])


def test_an_interval_always_holds_its_probability() -> None:
    row = simulated_background()[0]
    for steps in (VennAbers((0.0,), (0.98,), (0.99,)), VennAbers((0.0,), (0.001,), (0.002,))):
        low, high = Calibrated(PRIOR, steps=steps).interval(row)
        assert low <= float(Calibrated(PRIOR).probabilities(row[None, :])[0]) <= high


def test_only_the_newest_runs_decide_which_rung_answers() -> None:
    """For 6,000 runs recalibrating was better, for the newest 2,000 it was worse."""
    x = rows(8000)
    prior, shifted = sigmoid(score(PRIOR, x)), sigmoid(score(PRIOR, x) - 1.5)
    truth = np.where(np.arange(8000) < 6000, shifted, prior)
    model = RiskModel().with_choice(Rung.RECALIBRATED, "test")
    assert refresh(model, examples(x, truth, shifted, prior=prior, recalibrated=shifted), 8000).rung is Rung.PRIOR


def test_an_answer_needs_neither_scikit_learn_nor_shap_nor_polars() -> None:
    code = (
        "import sys\n"
        "from flexiroaster.safety.risk.assessment import AssessmentInput, assess\n"
        "from flexiroaster.safety.risk.state import Start\n"
        "assess(AssessmentInput(Start('p', 0.0))).explanation.to_html()\n"
        "sys.exit(bool({'sklearn', 'shap', 'polars'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_process_that_serves_assessments_does_not_import_scikit_learn() -> None:
    code = (
        "import sys\n"
        "import flexiroaster.service.safety.risk_state_cache, flexiroaster.service.safety.training\n"
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_history_the_prior_answers_and_says_so() -> None:
    prediction = RiskModel().predict(simulated_background()[0])
    assert prediction.rung is Rung.PRIOR
    assert prediction.reason.startswith("no history yet")
    assert prediction.high - prediction.low > 0.05


@pytest.fixture(scope="module")
def lived() -> tuple[History, Learned]:
    """Runs of which many take days, and what was said at each of their starts."""
    longer = np.random.default_rng(0).exponential(40 * 3600.0, RUNS)
    history = made_up(RUNS)
    history = replace(history, finished_at=history.started_at + longer)
    return history, replay_learning(history, feature_rows(history))


RUNS, MOMENT = 800, 730


def test_an_outcome_teaches_nothing_before_its_run_has_ended(lived: tuple[History, Learned]) -> None:
    """All outcomes that came after a moment are turned round: what had been said until then stays the same."""
    history, one = lived
    later, rows = history.finished_at >= history.started_at[MOMENT], feature_rows(history)
    turned = [_other(o) if late else o for o, late in zip(history.outcome, later, strict=True)]
    assert later[:MOMENT].sum() > 20
    two = replay_learning(replace(history, outcome=turned), rows)
    said, then = slice(MOMENT + 1), slice(MOMENT + 1, None)
    assert (one.champion[said] == two.champion[said]).all()
    assert np.array_equal(one.challenger[said], two.challenger[said], equal_nan=True)
    first, second = one.predictions[Rung.RECALIBRATED], two.predictions[Rung.RECALIBRATED]
    assert (first[said] == second[said]).all()
    assert (first[then] != second[then]).any(), "it does teach afterwards"
    assert len([t for t in one.trainings if t.examples < MOMENT - 50]) > 1


def _other(outcome: Outcome) -> Outcome:
    turned = {Outcome.FAILED: Outcome.COMPLETED, Outcome.COMPLETED: Outcome.FAILED}
    return turned.get(outcome, outcome)


def test_what_is_said_does_not_depend_on_what_comes_later(lived: tuple[History, Learned]) -> None:
    """The same history, cut off: what had been said up to there stays the same, bit by bit."""
    history, whole = lived
    cut = replace(history, **{field.name: getattr(history, field.name)[:MOMENT] for field in fields(history)})
    part = replay_learning(cut, feature_rows(cut))
    assert (whole.champion[:MOMENT] == part.champion).all()
    assert np.array_equal(whole.challenger[:MOMENT], part.challenger, equal_nan=True)
