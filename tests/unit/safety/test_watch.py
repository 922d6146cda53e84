"""The watch of one execution, what it is made of, and what became of its alarms."""

from __future__ import annotations

import json

import pytest

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.safety.anomaly.alarms import Alarms, AnomalyKind
from flexiroaster.safety.anomaly.stages import StageEnd, StagesState
from flexiroaster.safety.anomaly.watch import LearnedState, Watch
from flexiroaster.safety.policy import Action, PolicyRules, RiskLevel, Situation, decide


def ended(seconds: float = 60.0, rows: int = 1000, attempt: int = 1) -> StageEnd:
    return StageEnd("a", attempt, completed=True, duration_s=seconds, rows=rows, bytes=rows * 50)


def learned(runs: int = 30) -> StagesState:
    state = StagesState()
    for run in range(runs):
        state.execution_ended([ended(60.0 + run % 3)])
    return state


def watch(state: StagesState | None = None, **more: object) -> Watch:
    return Watch(LearnedState((state or learned()).to_json()), **more)  # type: ignore[arg-type] # the fields of Watch


def test_what_is_remembered_survives_as_json() -> None:
    state = learned()
    state.odds.add(ErrorClass.TRANSIENT, succeeded=True)
    again = StagesState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert again == state


def test_a_late_stage_is_known_before_it_ends_and_nothing_is_learned_by_looking() -> None:
    state = learned()
    before = json.dumps(state.to_json())
    watched = watch(state)
    limit = watched.late_after("a")
    assert limit is not None
    assert 62 < limit < 180
    assert watched.still_running("a", limit - 1) is None
    assert not watched.abnormal
    found = watched.still_running("a", limit + 1)
    assert found is not None
    assert (found.kind, found.alert, watched.abnormal) == (AnomalyKind.LATE, True, True)
    assert json.dumps(state.to_json()) == before


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.0, 2.0])
def test_tolerance_moves_the_limit(tolerance: float) -> None:
    usual, limit = watch(tolerance=0.0).late_after("a"), watch(tolerance=tolerance).late_after("a")
    assert usual is not None
    assert limit is not None
    assert limit == pytest.approx((usual + 0.1) * ((watch().late_after("a") + 0.1) / (usual + 0.1)) ** tolerance - 0.1)


def test_what_it_does_not_know_it_does_not_flag() -> None:
    for blank in (Watch(), watch(detects_anomalies=False), watch(learned(3))):
        assert blank.late_after("a") is None
        assert blank.still_running("a", 1e6) is None
        assert blank.stage_completed(ended(1e6, 0)) == []
        assert not blank.abnormal
    assert watch().late_after("new") is None


def test_rows_and_bytes_of_one_table_are_one_finding() -> None:
    found = watch().stage_completed(ended(rows=3))
    assert [(a.kind, a.observed) for a in found] == [(AnomalyKind.VOLUME, 3)]
    assert [a.kind for a in watch().stage_completed(ended(600.0, 3))] == [AnomalyKind.LATE, AnomalyKind.VOLUME]


def test_repetitions_pile_up_within_an_execution() -> None:
    watched = watch(learned(60))
    found = [watched.attempt_starts(repeated=n > 0) for n in range(30)]
    assert [a.kind for a in found if a is not None and a.alert] == [AnomalyKind.RETRIES]


def test_odds_are_told_once_enough_attempts_were_repeated() -> None:
    state = learned()
    for _ in range(5):
        state.odds.add(ErrorClass.TRANSIENT, succeeded=False)
    assert watch(state).retry_odds(ErrorClass.TRANSIENT) is None
    for _ in range(20):
        state.odds.add(ErrorClass.TRANSIENT, succeeded=False)
    odds = watch(state).retry_odds(ErrorClass.TRANSIENT)
    assert odds is not None
    assert odds < 0.15
    assert watch(state).retry_odds(ErrorClass.CRASH) is None


def test_modes() -> None:
    asked = Situation(ErrorClass.DATA, 0, True, True, False, RiskLevel.LOW)
    assert Watch(rules=PolicyRules(PolicyMode.OFF)).decide(asked) is None
    for mode, acts in ((PolicyMode.SHADOW, False), (PolicyMode.ACT, True)):
        watched = Watch(rules=PolicyRules(mode), model_version="v")
        decision = watched.decide(asked)
        assert decision is not None
        assert (decision.action, decision.model_version, watched.acts) == (Action.PAUSE, "v", acts)


def test_a_rollback_may_be_left_to_people() -> None:
    alone = Situation(ErrorClass.CODE, 0, True, True, False, RiskLevel.HIGH, may_roll_back=False)
    decision = decide(alone)
    assert decision.action is Action.TERMINATE
    assert {v.action: v.reason for v in decision.verdicts}[Action.ROLLBACK] == "the policy does not allow rollback"


def test_what_a_stage_asks_to_be_repeated_is_repeated() -> None:
    asked = Situation(ErrorClass.DATA, 1, True, False, False, RiskLevel.LOW, retry_on=frozenset({ErrorClass.DATA}))
    assert decide(asked).action is Action.RETRY
    crash = Situation(ErrorClass.CRASH, 1, True, False, False, RiskLevel.LOW, retry_on=frozenset({ErrorClass.DATA}))
    assert decide(crash).action is not Action.RETRY


def test_the_explanation_names_what_was_passed_over() -> None:
    decision = decide(Situation(ErrorClass.DATA, 0, True, False, False, RiskLevel.LOW))
    assert decision.explanation == (
        "pause: a person can fix the cause, and completed work is kept; not continue (the stage failed), "
        "retry (retrying does not resolve data errors), skip (the stage is critical)"
    )
    assert decision.data()["explanation"] == decision.explanation
    assert decision.data()["situation"]["retry_on"] == ["crash", "timeout", "transient", "unknown"]


def test_alarms_are_false_when_the_run_completes() -> None:
    alarms = Alarms()
    assert alarms.kinds == {}
    for completed in (True, False, False, True):
        alarms.ended(["late"], completed=completed)
    alarms.ended([], completed=True)
    (late,) = Alarms.from_json(json.loads(json.dumps(alarms.to_json()))).kinds.values()
    assert (late.raised, late.false, late.false_rate) == (4, 2, 0.5)
