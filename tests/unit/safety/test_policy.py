"""Every decision of the policy: the whole cross, committed as a readable table."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from flexiroaster.errors import ErrorClass
from flexiroaster.safety.policy import Action, Costs, RetryOdds, RiskLevel, Situation, decide

TABLE = Path(__file__).with_name("decision_table.txt")
RISKS = list(RiskLevel)
CROSS = list(product([None, *ErrorClass], (0, 1), (False, True), (False, True), (False, True)))


def situation(*inputs) -> Situation:
    """Error class, attempts left, critical, effects made, anomaly, risk."""
    return Situation(*inputs)


def line(case: tuple) -> str:
    """One line of the table: the situation, then the action at low, medium and high risk."""
    error_class, attempts, critical, effects, anomaly = case
    told = [error_class.value if error_class else "no error", f"{attempts} left"]
    told += [w if on else "-" for w, on in (("critical", critical), ("effects", effects), ("anomaly", anomaly))]
    actions = [decide(situation(*case, risk)).action.value for risk in RISKS]
    return "  ".join([*(word.ljust(13) for word in told), *(a.ljust(9) for a in actions)]).rstrip()


def test_the_table_is_what_the_policy_decides() -> None:
    header, rule, *rows = TABLE.read_text().splitlines()
    assert header.split() == ["error", "attempts", "stage", "effects", "anomaly", "low", "medium", "high"]
    assert set(rule) == {"-"}
    assert rows == [line(case) for case in CROSS]
    assert len(rows) * len(RISKS) == 480


@pytest.fixture(params=[(*case, risk) for case in CROSS for risk in RISKS], ids=str)
def case(request) -> Situation:
    return situation(*request.param)


def test_the_first_admissible_action_is_chosen_and_every_one_has_a_reason(case: Situation) -> None:
    decision = decide(case)
    assert [v.action for v in decision.verdicts] == list(Action)
    assert all(v.reason for v in decision.verdicts)
    assert decision.action is next(v.action for v in decision.verdicts if v.admissible)
    assert decision.verdicts[-1].admissible


def test_what_never_may_happen(case: Situation) -> None:
    action = decide(case).action
    if case.error_class is not None:
        assert action is not Action.CONTINUE
    if action is Action.RETRY:
        assert case.attempts_left > 0
        assert case.error_class not in {
            ErrorClass.CODE,
            ErrorClass.DATA,
            ErrorClass.CONFIGURATION,
            ErrorClass.CANCELLED,
        }
    if action is Action.SKIP:
        assert not case.critical
    if action is Action.ROLLBACK:
        assert case.effects_made
    if case.error_class is ErrorClass.CANCELLED:
        assert action is Action.TERMINATE
    if action is Action.TERMINATE:
        assert not case.effects_made or case.error_class is ErrorClass.CANCELLED


def test_every_action_is_chosen_somewhere() -> None:
    assert {decide(situation(*c, r)).action for c in CROSS for r in RISKS} == set(Action)


def test_an_attempt_must_be_worth_its_cost() -> None:
    hopeless = Situation(ErrorClass.CRASH, 2, True, False, False, RiskLevel.LOW, retry_odds=0.04)
    assert decide(hopeless).action is Action.PAUSE
    cheap = Situation(ErrorClass.CRASH, 2, True, False, False, RiskLevel.LOW, retry_odds=0.04, costs=Costs(1, 100))
    assert decide(cheap).action is Action.RETRY


def test_unattended_it_does_not_wait_and_undoes_what_it_can() -> None:
    alone = Situation(ErrorClass.DATA, 0, True, True, False, RiskLevel.LOW, attended=False)
    assert decide(alone).action is Action.ROLLBACK
    abnormal = Situation(None, 0, True, True, True, RiskLevel.HIGH, attended=False)
    assert decide(abnormal).action is Action.CONTINUE
    stuck = Situation(ErrorClass.DATA, 0, True, True, False, RiskLevel.LOW, attended=False, undoable=False)
    assert decide(stuck).action is Action.TERMINATE


def test_a_decision_is_one_json_row() -> None:
    data = decide(situation(ErrorClass.DATA, 0, True, True, True, RiskLevel.HIGH), "abc").data()
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    assert data["model_version"] == "abc"
    assert data["propensity"] == 1.0
    assert [v["action"] for v in data["verdicts"] if v["chosen"]] == [data["action"]] == ["rollback"]


def test_odds_are_learned_per_class_and_drawn_to_the_installation() -> None:
    own, everywhere = RetryOdds(), RetryOdds()
    before = own.odds(ErrorClass.TRANSIENT)
    for _ in range(40):
        everywhere.add(ErrorClass.TRANSIENT, succeeded=False)
    assert own.odds(ErrorClass.TRANSIENT, everywhere) < 0.1 < before == own.odds(ErrorClass.TRANSIENT)
    for _ in range(40):
        own.add(ErrorClass.TRANSIENT, succeeded=True)
    assert own.odds(ErrorClass.TRANSIENT, everywhere) > 0.8
    assert own.odds(ErrorClass.CODE, everywhere) == pytest.approx(0.02)
    assert RetryOdds.from_json(json.loads(json.dumps(own.to_json()))) == own
