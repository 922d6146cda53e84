"""Features: from what had ended before the start, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flexiroaster.safety.risk.factors import FEATURES, GROUPS, Ledger, Past, features
from flexiroaster.safety.risk.history import History, feature_rows, replay
from flexiroaster.safety.risk.state import MAX_POINTS, Ending, Outcome, OutcomeWindow, PipelineState, Population, Start
from tests.faults.tiers import trials
from tests.unit.safety.brute_force import differences
from tests.unit.safety.histories import made_up

SAMPLES = trials(2_000, 10_000)


@pytest.fixture(scope="module")
def history() -> History:
    return made_up(SAMPLES, pipelines=60)


def test_all_starts_equal_the_definition_on_raw_rows(history: History) -> None:
    assert differences(history, feature_rows(history), np.arange(SAMPLES)).max() < 1e-8


def test_knowing_an_outcome_at_its_start_would_be_found(history: History) -> None:
    """The same check on features that see an outcome as soon as its run starts: most starts differ."""
    peeking = feature_rows(replace(history, finished_at=history.started_at))
    found = differences(history, peeking, np.arange(0, SAMPLES, 20))
    assert (found > 1e-6).mean() > 0.3


def test_a_run_that_ends_in_the_moment_of_a_start_is_not_known_to_it() -> None:
    times = np.array([100.0, 200.0, 200.0])
    history = History(["a"] * 3, times, np.array([200.0, 200.0, 300.0]), [Outcome.FAILED] * 3, [1.0] * 3, [None] * 3)
    assert [past.pipeline.runs for _, past in replay(history)] == [0, 0, 0]


def test_the_state_that_is_stored_gives_the_same_features(history: History) -> None:
    """Serving from JSON after every single run equals the replay."""
    ledger, short = Ledger(), made_up(300)
    order, ended = np.argsort(short.finished_at, kind="stable"), 0
    replayed = feature_rows(short)
    for row, start in enumerate(short.starts()):
        while short.finished_at[order[ended]] < start.at:
            ledger.add(short.pipeline_id[order[ended]], short.ending(int(order[ended])))
            ended += 1
        past = ledger.past(start.pipeline_id)
        stored = Past(
            PipelineState.from_json(json.loads(json.dumps(past.pipeline.to_json(), allow_nan=False))),
            Population.from_json(json.loads(json.dumps(past.group.to_json(), allow_nan=False))),
            Population.from_json(json.loads(json.dumps(past.installation.to_json(), allow_nan=False))),
        )
        assert features(start, stored) == replayed[row].tolist()


def test_the_state_stays_small_however_long_the_history() -> None:
    past = Past()
    for i in range(20_000):
        past.add(Ending(i * 60.0, Outcome.FAILED if i % 7 == 0 else Outcome.COMPLETED, 10.0))
    assert len(json.dumps(past.pipeline.to_json())) < 64_000
    runs, failed = past.pipeline.window.counts(20_000 * 60.0, 7)
    assert abs(runs - 7 * 24 * 60) <= 60
    assert failed == pytest.approx(runs / 7, abs=10)


def test_the_window_is_exact_while_it_holds_single_runs() -> None:
    window = OutcomeWindow()
    for i in range(MAX_POINTS):
        window.add(i * 1800.0, failed=i % 2 == 0)
    now = MAX_POINTS * 1800.0
    assert window.counts(now, 1) == (48, 24)
    assert window.counts(now, 30) == (1440, 720)


def test_a_cancelled_run_is_history_but_no_outcome() -> None:
    past = Past()
    past.add(Ending(1.0, Outcome.FAILED, 5.0))
    before = past.pipeline.to_json()
    past.add(Ending(2.0, Outcome.CANCELLED, 5.0))
    changed = {k for k, v in past.pipeline.to_json().items() if v != before[k]}
    assert changed == {"cancelled", "recently_cancelled", "last_ended_at"}
    assert past.installation.runs == 1


def test_every_feature_is_in_one_group_and_finite_without_any_history() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == sum(map(len, GROUPS.values()))
    assert np.isfinite(features(Start("new", 0.0), Past())).all()
