"""What is abnormal while a run goes on: late stages, volumes, bursts of errors, retries that pile up."""

from __future__ import annotations

import json
from random import Random

import pytest

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind, ErrorBurst, RetryPile
from flexiroaster.safety.anomaly.stages import COOLDOWN, MIN_RUNS, ExecutionPace, Lateness, PipelinePace, Volume


class Stage:
    """One stage, run once an execution, with lognormal durations."""

    def __init__(self, seed: int = 0, spread: float = 0.2) -> None:
        self.rng, self.spread = Random(seed), spread
        self.known, self.pipeline = Lateness(), PipelinePace()

    def run(self, usual: float = 60.0) -> Anomaly | None:
        execution = ExecutionPace(self.pipeline)
        found = self.known.ended(usual * self.rng.lognormvariate(0, self.spread), execution)
        self.pipeline.add(execution.pace)
        return found

    def runs(self, n: int, usual: float = 60.0) -> list[Anomaly]:
        return [found for _ in range(n) if (found := self.run(usual))]


def test_normal_durations_are_hardly_flagged_and_a_threefold_one_is() -> None:
    flagged, caught = 0, 0
    for seed in range(50):
        stage = Stage(seed)
        flagged += len(stage.runs(100))
        caught += len(stage.runs(1, usual=180.0))
    assert flagged <= 50
    assert caught >= 45


def test_a_stage_that_hangs_is_late_while_it_still_runs() -> None:
    stage = Stage()
    stage.runs(30)
    limit = stage.known.limit(ExecutionPace(stage.pipeline))
    assert limit.late_s is not None
    assert 60 < limit.late_s < 180
    before = stage.known.to_json()
    assert stage.known.still_running(limit.late_s - 0.1, ExecutionPace(stage.pipeline)) is None
    found = stage.known.still_running(limit.late_s + 0.1, ExecutionPace(stage.pipeline))
    assert found is not None
    assert (found.kind, found.alert) == (AnomalyKind.LATE, True)
    assert stage.known.to_json() == before, "asking teaches nothing"


@pytest.mark.parametrize("seed", range(10))
def test_a_level_shift_is_one_alert(seed: int) -> None:
    stage = Stage(seed, spread=0.02)
    assert not any(a.alert for a in stage.runs(60))
    found = stage.runs(60, usual=200.0)
    assert sum(a.alert for a in found) == 1
    assert len(found) <= 4, "and soon nothing is flagged: the new level is the usual one"
    assert stage.runs(1, usual=600.0), "from which a spike is a spike again"


def test_after_an_alert_there_is_a_cooldown() -> None:
    stage = Stage(spread=0.1)
    stage.runs(40)
    first, second = stage.run(400.0), (stage.run(), stage.run(400.0))[1]
    assert first is not None
    assert second is not None
    assert (first.alert, second.alert) == (True, False)
    stage.runs(COOLDOWN)
    third = stage.run(400.0)
    assert third is not None
    assert third.alert


def test_before_enough_runs_and_below_a_second_nothing_is_late() -> None:
    stage = Stage()
    assert stage.runs(MIN_RUNS - 1) == []
    assert stage.known.limit(ExecutionPace(stage.pipeline)).late_s is None
    quick = Stage()
    quick.runs(50, usual=0.3)
    assert quick.run(30.0) is None


def test_on_a_slow_machine_all_stages_may_take_longer() -> None:
    """Its first stages say how slow it is; the limit of the next ones follows."""
    stages = [Stage(i, spread=0.1) for i in range(12)]
    for stage in stages:
        stage.runs(40)
    execution = ExecutionPace()
    flags = [stage.known.ended(60 * 1.8, execution) for stage in stages]
    assert flags[3:] == [None] * 9
    slow, usual = (stages[0].known.limit(pace) for pace in (execution, ExecutionPace()))
    assert slow.usual_s == pytest.approx(1.7 * usual.usual_s, rel=0.05)
    assert slow.late_s > 60 * 1.8


def test_one_execution_alerts_once_for_many_late_stages() -> None:
    stages = [Stage(i, spread=0.05) for i in range(3)]
    for stage in stages:
        stage.runs(40)
    execution = ExecutionPace(PipelinePace(variance=0.01))
    found = [stage.known.ended(1000.0 * 4**i, execution) for i, stage in enumerate(stages)]
    assert [a is not None and a.alert for a in found] == [True, False, False]
    assert all(found)


def test_rows_far_from_usual() -> None:
    rng, volume = Random(2), Volume()
    assert not any(volume.ended(1000 * rng.lognormvariate(0, 0.2)) for _ in range(200))
    empty = volume.ended(0)
    assert empty is not None
    assert (empty.kind, empty.alert) == (AnomalyKind.VOLUME, True)
    assert empty.message.startswith("0 rows, usually about")
    assert Volume("bytes").ended(1e9) is None


def test_a_new_level_of_rows_is_one_alert() -> None:
    volume = Volume()
    for _ in range(30):
        volume.ended(1000)
    found = [volume.ended(20_000) for _ in range(30)]
    assert sum(a is not None and a.alert for a in found) == 1
    assert found[-1] is None


def test_a_burst_of_errors_is_one_alert_until_it_is_over() -> None:
    burst = ErrorBurst()
    found = [burst.error(i * 60.0) for i in range(20)]
    assert [i for i, a in enumerate(found) if a is not None and a.alert] == [4]
    assert all(found[4:])
    assert burst.error(7 * 3600.0) is None
    again = [burst.error(7 * 3600.0 + i) for i in range(1, 20)]
    assert sum(a is not None and a.alert for a in again) == 1


def test_errors_that_are_usual_are_no_burst() -> None:
    burst = ErrorBurst()
    for i in range(24 * 14):
        for k in range(4):
            burst.error(i * 3600.0 + k * 900.0)
    now = 24 * 14 * 3600.0
    assert 2.0 < burst.usual(now) < 5.0
    assert not any(burst.error(now + i * 400.0) for i in range(6))


def test_retries_that_pile_up_are_one_alert() -> None:
    rng, pile = Random(3), RetryPile()
    assert not any(pile.attempt(repeated=rng.random() < 0.05) for _ in range(500))
    found = [pile.attempt(repeated=i % 4 != 0) for i in range(40)]
    assert sum(a is not None and a.alert for a in found) == 1
    assert found[-1] is not None


def test_every_state_survives_json() -> None:
    stage = Stage()
    stage.runs(15)
    burst, pile, volume = ErrorBurst(), RetryPile(), Volume("bytes")
    burst.error(5.0)
    pile.attempt(repeated=True)
    volume.ended(10)
    for state in (stage.known, burst, pile, volume):
        assert type(state).from_json(json.loads(json.dumps(state.to_json(), allow_nan=False))) == state
