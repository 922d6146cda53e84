"""Explanations: additive in the number's own units, exact, and harmless as HTML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import permutations
from math import factorial

import numpy as np
import pytest

from flexiroaster.errors import DefinitionError, InputError
from flexiroaster.safety.learning.training import fit_boosting
from flexiroaster.safety.risk import explanation
from flexiroaster.safety.risk.additive import GROUP_OF, score
from flexiroaster.safety.risk.assessment import (
    Assessment,
    AssessmentInput,
    Gate,
    RiskLevel,
    Thresholds,
    assess,
    risk_reductions,
    what_if,
)
from flexiroaster.safety.risk.calibration import BetaCalibration
from flexiroaster.safety.risk.explanation import (
    MIN_MENTIONED,
    Contribution,
    Explanation,
    ExplanationKind,
    coalitions,
    explain_score,
    shapley_values,
)
from flexiroaster.safety.risk.factors import FEATURES, GROUPS, Ledger, Past, factor_score, features
from flexiroaster.safety.risk.history import feature_rows, replay
from flexiroaster.safety.risk.model import PRIOR, Calibrated, RiskModel, Rung
from flexiroaster.safety.risk.state import Ending, Outcome, Start
from tests.unit.safety.histories import BEGINNING, made_up
from tests.unit.safety.payloads import PAYLOADS

CURVE = BetaCalibration(0.8, 1.3, -0.2)


@pytest.fixture(scope="module")
def models() -> dict[Rung, RiskModel]:
    """All rungs, the local ones being trees."""
    history = made_up(1500)
    rows, known = feature_rows(history), ~np.isnan(history.target)
    trees = fit_boosting(rows[known], history.target[known])
    local = Calibrated(trees, CURVE)
    model = RiskModel(
        recalibrated=Calibrated(PRIOR, CURVE), local=local, recalibrated_local=local, background=rows[::30]
    )
    return {rung: model.with_choice(rung, "test") for rung in Rung}


def failing(successes: int = 3, failures: int = 4) -> Past:
    past = Past()
    for i, outcome in enumerate([Outcome.COMPLETED] * successes + [Outcome.FAILED] * failures):
        past.add(Ending(BEGINNING + i * 3600, outcome, 60.0 + i))
    return past


def start(name: str = "p") -> Start:
    return Start(name, BEGINNING + 40 * 3600, 6)


@pytest.mark.parametrize("rung", list(Rung))
def test_base_and_contributions_are_the_probability_on_every_start(models, rung: Rung) -> None:
    for number, (run, past) in enumerate(replay(made_up(400, seed=4))):
        if number % 4 == 0:
            found = assess(AssessmentInput(run, past, models[rung]))
            parts = sum(c.amount for c in found.explanation.contributions)
            assert found.explanation.base + parts == pytest.approx(found.prediction.probability, abs=1e-9)
            assert found.explanation.total == pytest.approx(found.prediction.probability, abs=1e-9)
            named = sum(c.amount for c in found.score_explanation.contributions)
            assert named == pytest.approx(found.score.score, abs=1e-12)


@pytest.mark.parametrize("players", range(1, 9))
def test_shapley_values_equal_brute_force_over_all_orders_or_subsets(players: int) -> None:
    values = np.random.default_rng(players).normal(0, 1, 1 << players)
    expected = by_orders(values, players) if players <= 6 else by_subsets(values, players)
    assert shapley_values(values) == pytest.approx(expected, abs=1e-10)


def by_orders(values: np.ndarray, players: int) -> list[float]:
    """The definition: the mean over all orders of what a player adds when it comes."""
    found = [0.0] * players
    for order in permutations(range(players)):
        inside = 0
        for player in order:
            found[player] += values[inside | 1 << player] - values[inside]
            inside |= 1 << player
    return [f / factorial(players) for f in found]


def by_subsets(values: np.ndarray, players: int) -> list[float]:
    found = [0.0] * players
    for player in range(players):
        for subset in range(1 << players):
            if not subset >> player & 1:
                size = subset.bit_count()
                share = factorial(size) * factorial(players - size - 1) / factorial(players)
                found[player] += share * (values[subset | 1 << player] - values[subset])
    return found


def test_a_model_of_eight_groups_equals_brute_force_on_its_probability(models) -> None:
    """From the features: each subset of groups taken from the start, the rest from each background row."""
    for model in models.values():
        row = np.array(features(start(), failing()))
        values = np.array([float(probability_with(model, row, inside)) for inside in coalitions(len(GROUPS))])
        found = assess(AssessmentInput(start(), failing(), model)).explanation
        assert [c.amount for c in found.contributions] == pytest.approx(by_subsets(values, 8), abs=1e-9)
        assert found.base == pytest.approx(values[0], abs=1e-12)


def probability_with(model: RiskModel, row: np.ndarray, inside: np.ndarray) -> float:
    mixed = np.where(inside[GROUP_OF], row, model.background)
    return model.chosen.curve.apply(score(model.chosen.model, mixed)).mean()


def test_it_agrees_with_shap(models) -> None:
    """shap's own exact explainer, with a masker that moves a group at a time."""
    import shap

    model, row = models[Rung.LOCAL], np.array(features(start(), failing()))

    def probability(inside: np.ndarray) -> np.ndarray:
        return np.array([probability_with(model, row, one.astype(bool)) for one in inside])

    groups = len(GROUPS)
    explainer = shap.explainers.Exact(probability, shap.maskers.Independent(np.zeros((1, groups))))
    peer = explainer(np.ones((1, groups)))
    found = assess(AssessmentInput(start(), failing(), model)).explanation
    assert [c.amount for c in found.contributions] == pytest.approx(peer.values[0].tolist(), abs=1e-9)


def test_symmetric_players_share_and_a_dummy_gets_nothing() -> None:
    present = coalitions(4)
    values = np.sqrt(present[:, 0] + present[:, 1] + 2.0 * present[:, 2])  # 0 and 1 alike, 3 does nothing
    found = shapley_values(values)
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[3] == pytest.approx(0.0, abs=1e-12)
    assert found.sum() == pytest.approx(values[-1] - values[0])


def test_groups_that_a_model_does_not_use_contribute_nothing(models) -> None:
    contributions = assess(AssessmentInput(start(), failing(), models[Rung.PRIOR])).explanation.contributions
    found = {c.name: c.amount for c in contributions}
    assert [found["duration"], found["shape"]] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert abs(found["streak"]) > 0.01


def test_too_many_players_are_refused() -> None:
    with pytest.raises(ValueError, match="13 players"):
        coalitions(13)


def test_an_explanation_is_strict_json_text_and_a_shap_explanation(models) -> None:
    found = assess(AssessmentInput(start(), failing(), models[Rung.LOCAL])).explanation
    data = json.loads(json.dumps(found.data(), allow_nan=False))
    assert data["base"] + sum(c["amount"] for c in data["contributions"]) == pytest.approx(data["total"])
    assert {name for c in data["contributions"] for name in c["values"]} == set(FEATURES)
    assert "4 failures in a row" in found.text
    peer = found.to_shap()
    assert float(peer.base_values + peer.values.sum()) == pytest.approx(found.total)


def test_an_assessment_is_strict_json(models) -> None:
    for model in models.values():
        data = assess(AssessmentInput(start(), failing(), model)).data()
        assert json.loads(json.dumps(data, allow_nan=False))["model_version"] == model.version


def test_no_fact_contradicts_what_it_explains(models) -> None:
    """Failures lower nothing and successes raise nothing, unless there are fewer of them than usual, which is said."""
    told = 0
    for number, (run, past) in enumerate(replay(made_up(900, seed=4))):
        if number % 5 == 0:
            for model in models.values():
                for found in assess(AssessmentInput(run, past, model)).explanation.contributions:
                    if abs(found.amount) >= MIN_MENTIONED:
                        assert not contradicts(found), f"{found.name} {found.amount:+.3f} ({found.fact})"
                        told += 1
    assert told > 1000


def contradicts(found: Contribution) -> bool:
    raised = found.amount > 0
    if rate := re.search(r"about (\d+) %; (\d+) % is typical", found.fact):
        return int(rate[1]) < int(rate[2]) if raised else int(rate[1]) > int(rate[2])
    if row := re.search(r"(\S+) (failure|success)e?s? in a row(?:; (\S+) are typical)?", found.fact):
        few = row[3] is not None and (row[1] == "no" or int(row[1]) <= float(row[3]))
        return (row[2] == "failure") != (raised != few)
    if rates := re.search(r"(\d+) % of its group's .* (\d+) % of (?:its own|the installation's)", found.fact):
        return int(rates[1]) < int(rates[2]) if raised else int(rates[1]) > int(rates[2])
    return found.fact == "no earlier success" and not raised


def test_a_single_failure_where_streaks_are_long_lowers_the_risk_and_says_why(models) -> None:
    usual = np.array([features(start(), failing(failures=30 + i)) for i in range(20)])
    model = replace(models[Rung.PRIOR], background=usual)
    found = assess(AssessmentInput(start(), failing(failures=1), model)).explanation
    facts = {c.name: c for c in found.contributions}
    assert facts["streak"].amount < 0
    assert re.fullmatch(r"after a failure its failure rate is about \d\d %; 100 % is typical", facts["streak"].fact)


def test_shap_draws_numbers_that_say_what_they_are(models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt
    import shap

    several = [assess(AssessmentInput(start(), failing(failures=n), models[Rung.PRIOR])).explanation for n in (0, 1, 4)]
    found = several[-1].to_shap()
    for draw in (shap.plots.bar, shap.plots.waterfall):
        draw(found, show=False)
        labels = {label.get_text() for label in plt.gca().get_yticklabels()}
        plt.close("all")
        assert {"4 = streak (failures, or - successes)", "7 = experience (runs)", "6 = shape (stages)"} <= labels
    columns = {
        name: np.array([getattr(e.to_shap(), name) for e in several]) for name in ("values", "data", "base_values")
    }
    shap.plots.beeswarm(shap.Explanation(feature_names=found.feature_names, **columns), show=False)
    coloured = [dots.get_array() for dots in plt.gca().collections if dots.get_array() is not None]
    plt.close("all")
    assert len(coloured) == len(GROUPS), "coloured, not grey"
    streaks = [dots for dots in coloured if -3 <= dots.min() < -2.5 and 3.5 < dots.max() <= 4]
    assert len(streaks) == 1, "shap clips the extremes"


def test_a_number_that_is_not_there_is_drawn_as_such() -> None:
    found = assess(AssessmentInput(Start("p", BEGINNING), Past())).explanation.to_shap()
    shown = dict(zip(found.feature_names, found.display_data, strict=True))
    assert (shown["shape (stages)"], shown["rhythm (hours since success)"]) == ("unknown", "never")
    score = assess(AssessmentInput(Start("p", BEGINNING), Past())).score_explanation.to_shap()
    assert dict(zip(score.feature_names, score.display_data, strict=True))["stages"] == "none"


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "find_spec", lambda name: None if name == "matplotlib" else object())
    with pytest.raises(InputError, match=r"matplotlib: pip install 'flexiroaster\[plots\]'"):
        assess(AssessmentInput(start(), failing())).explanation.to_shap()


class Seen(HTMLParser):
    """All tags and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_survives_in_html(payload: str) -> None:
    contribution = Contribution(payload, 0.3, payload, {payload: 1.0})
    html = Explanation(ExplanationKind.PROBABILITY, payload, 0.1, 0.4, (contribution,)).to_html()
    html += assess(AssessmentInput(start(payload), failing())).explanation.to_html()
    html += explain_score(factor_score(start(payload), failing().pipeline), start(payload)).to_html()
    seen = Seen()
    seen.feed(html)
    assert seen.tags <= {"figure", "figcaption", "table", "tr", "td", "div"}
    assert seen.attributes <= {"style"}
    assert payload not in html or not set(payload) & set("<>&\"'")


def test_there_are_25_payloads() -> None:
    assert len(set(PAYLOADS)) >= 25


def question(models, past: Past | None = None) -> AssessmentInput:
    return AssessmentInput(start(), past or failing(), models[Rung.LOCAL])


def test_what_if_answers_as_if_it_were_so(models) -> None:
    asked = question(models)
    assert what_if(asked).prediction == assess(asked).prediction
    direct = assess(replace(asked, start=replace(asked.start, n_stages=2)))
    assert what_if(asked, n_stages=2).prediction == direct.prediction
    more = what_if(asked, successes_first=2)
    assert more.input.past.pipeline.streak == -2
    assert what_if(asked, failures_first=1, successes_first=2).input.past.pipeline.streak == -2
    assert asked.past.pipeline.streak == 4, "the question itself is left as it was"
    assert what_if(asked, rate_2=-3.0).features["rate_2"] == -3.0


def test_what_if_names_what_it_does_not_know(models) -> None:
    with pytest.raises(DefinitionError, match=r"n_stage: cannot be changed; did you mean 'n_stages'"):
        what_if(question(models), n_stage=3)
    with pytest.raises(DefinitionError, match="successes_first: must be 0 or more"):
        what_if(question(models), successes_first=-1)


def test_what_would_lower_it_is_true_and_the_smallest(models) -> None:
    asked = replace(question(models), model=models[Rung.PRIOR])
    now = assess(asked).prediction.probability
    found = risk_reductions(asked, threshold=now - 0.1)
    assert found
    for remedy in found:
        assert what_if(asked, **remedy.change).prediction.probability == remedy.probability < now
        assert remedy.enough == (remedy.probability < now - 0.1)
    successes = next(r.change["successes_first"] for r in found if "successes_first" in r.change and r.enough)
    for fewer in (n for n in (1, 2, 3, 5) if n < successes):
        assert what_if(asked, successes_first=fewer).prediction.probability >= now - 0.1


@pytest.mark.parametrize(("probability", "gate"), [(0.39, Gate.ALLOW), (0.4, Gate.WARN), (0.7, Gate.BLOCK)])
def test_the_gate(probability: float, gate: Gate) -> None:
    assert Thresholds(at_high=Gate.BLOCK).gate(probability) is gate


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="medium <= high"):
        Thresholds(0.8, 0.5)


def test_a_new_pipeline_says_that_there_is_no_history() -> None:
    found: Assessment = assess(AssessmentInput(Start("new", BEGINNING), Ledger().past("new")))
    assert found.no_history_yet
    assert found.level is RiskLevel.LOW
    assert "no history yet" in found.recommendations[-1]
    assert not assess(AssessmentInput(start(), failing())).no_history_yet
