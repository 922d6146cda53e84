"""Rollback in the state machine: how failed undos are repeated, and what another driver finds of that."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flexiroaster.engine.scheduler import restore
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.engine.state_machine.rollback import begin_rollback
from flexiroaster.model.pipeline import parse_pipeline
from flexiroaster.store.executions import StageRow
from flexiroaster.store.journal.transitions import StageChange, Transition
from flexiroaster.store.leases import Stored

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BUSY = {"type": "StageError", "message": "503", "class": "transient", "retry_after": 900.0}
WRONG = {"type": "StageError", "message": "no", "class": "configuration"}


def rolling_back(**fields: Any) -> Execution:
    """Two outputs that have completed, `b` the last, in a rollback; the longest backoff is ten seconds."""
    common = {"type": "output", "max_retries": 2, "retry_delay": 4.0, "max_retry_delay": 10.0, **fields}
    stages = [{"id": "a", **common}, {"id": "b", **common, "dependencies": ["a"]}]
    x = Execution("x", parse_pipeline({"id": "p", "name": "Pipe", "stages": stages}), {}, token=1)
    x.begin(T0)
    for number, stage_id in enumerate(("a", "b")):
        x.start_next(T0 + timedelta(seconds=number))
        x.stage_completed(stage_id, {"effect": {}}, T0 + timedelta(seconds=number))
    begin_rollback(x, "wrong day", T0)
    return x


def undo(x: Execution) -> str:
    task = x.start_next(T0)
    assert task is not None
    assert task.undo is not None
    return task.stage_id


def test_an_undo_that_failed_starts_again_only_when_its_wait_is_over() -> None:
    x = rolling_back()
    assert undo(x) == "b"
    x.stage_failed("b", BUSY | {"retry_after": None}, T0)
    assert T0 <= x.retries["b"] <= T0 + timedelta(seconds=4)
    assert not x.startable
    assert x.start_next(T0) is None
    assert not x.ended, "it is driven while it waits"
    x.retry("b")
    assert undo(x) == "b"
    x.stage_completed("b", {"undone": "done"}, T0)
    assert undo(x) == "a", "the next one does not wait"


def test_the_other_side_may_ask_for_a_wait_beyond_the_cap() -> None:
    x = rolling_back()
    undo(x)
    x.stage_failed("b", BUSY, T0)
    assert x.retries == {"b": T0 + timedelta(seconds=900)}
    told = x.collect_transition().events[-1]
    assert (told.type, told.message, told.data["delay"]) == (
        "stage.undo_failed",
        "Undoing stage failed, next attempt in 900.0 s: b: 503",
        900.0,
    )


def test_the_stage_row_says_until_when_its_undo_waits() -> None:
    x = rolling_back()
    undo(x)
    x.collect_transition()
    x.stage_failed("b", BUSY, T0)
    assert rows(x.collect_transition()) == {"b": ("completed", T0 + timedelta(seconds=900))}
    x.retry("b")
    undo(x)
    assert rows(x.collect_transition()) == {"b": ("completed", None)}


def rows(transition: Transition | None) -> dict[str, tuple[str, datetime | None]]:
    assert transition is not None
    return {change.stage_id: (str(change.status), change.retry_at) for change in transition.stages}


@pytest.mark.parametrize("last", [BUSY, WRONG], ids=["attempts used up", "not worth another"])
def test_what_cannot_be_undone_waits_for_nothing(last: dict[str, Any]) -> None:
    x = rolling_back(max_retries=1)
    undo(x)
    x.stage_failed("b", BUSY, T0)
    x.retry("b")
    undo(x)
    x.stage_failed("b", last, T0)
    assert (x.retries, x.stages["b"].retry_at) == ({}, None)
    assert undo(x) == "a"
    x.stage_completed("a", {"undone": "done"}, T0)
    assert [item["stage_id"] for item in x.error["left"]] == ["b"]


def test_another_driver_waits_as_long() -> None:
    x = rolling_back()
    undo(x)
    x.stage_failed("b", BUSY, T0)
    found = taken_over(x, T0 + timedelta(seconds=100))
    assert found.retries == {"b": T0 + timedelta(seconds=900)}
    assert found.start_next(T0) is None
    found.retry("b")
    assert undo(found) == "b"


def taken_over(x: Execution, at: datetime) -> Execution:
    changes: list[StageChange] = [run.change() for run in x.stages.values()]
    empty = dict.fromkeys(StageRow.__slots__)
    stored = Stored(
        execution_id=x.id,
        pipeline=x.pipeline,
        variables={},
        status=x.status,
        goal=x.goal,
        queued=False,
        slot=None,
        last_seq=x.seq,
        started_at=x.started_at,
        completed_at=x.completed_at,
        running_since=x.started_at,
        error=x.error,
        stages=[StageRow(**{**empty, **asdict(change)}) for change in changes],
        commands=[],
    )
    return restore(stored, 2, at)


def test_an_undo_that_is_ended_to_hand_over_does_not_count() -> None:
    x = rolling_back(max_retries=0)
    undo(x)
    x.prepare_interrupt()
    x.stage_failed("b", {"message": "killed to hand the execution over", "class": "cancelled"}, T0)
    x.interrupt(T0)
    assert not x.ended, "the rollback goes on elsewhere"
    assert [event.type for event in x.collect_transition().events[-2:]] == ["stage.undoing", "execution.released"]
    assert undo(x) == "b"


def test_a_stop_ends_every_wait() -> None:
    stages = [{"id": "a", "type": "transform", "max_retries": 2, "retry_delay": 60.0}]
    x = Execution("x", parse_pipeline({"id": "p", "name": "Pipe", "stages": stages}), {}, token=1)
    x.begin(T0)
    x.start_next(T0)
    x.stage_failed("a", BUSY, T0)
    assert x.retries == {"a": T0 + timedelta(seconds=900)}
    x.stop("enough", T0)
    assert (x.retries, x.status) == ({}, "cancelled")
