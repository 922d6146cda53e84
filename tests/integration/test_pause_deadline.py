"""A pause with a deadline becomes a stop with a reason, whichever process drives the execution then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from flexiroaster.config import Settings
from flexiroaster.engine.event_loop import Timer
from flexiroaster.errors import InputError
from flexiroaster.model.event import utc_now
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.tables import executions as table
from tests.integration.test_control import begin, begin_elsewhere, seqs_have_no_gap, settings, start_worker
from tests.integration.test_runs import python
from tests.waiting import eventually

__all__ = ["settings"]  # the fixture

SOON, FAR = timedelta(seconds=1), timedelta(hours=2)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        opened.start_claiming()
        yield opened


def timers_of(installation: Installation, execution_id: str) -> dict[str, Timer]:
    driven = installation.driver._driven.get(execution_id)
    assert driven is not None
    return driven.timers


def waits_for(path: Path) -> dict[str, object]:
    return python("a", "wait_for_file", arguments={"path": str(path)}, max_retries=0)


def running(installation: Installation, execution_id: str) -> None:
    eventually(lambda: executions.stages(installation, execution_id)[0].status == "running")


def undriven(installation: Installation, execution_id: str) -> None:
    eventually(lambda: executions.get(installation, execution_id).status == "paused")
    eventually(lambda: execution_id not in installation.driver.driven)


def let_it_pass(installation: Installation, execution_id: str) -> datetime:
    """Move the deadline of an execution without a live driver into the past, and return it."""
    passed = utc_now() - timedelta(seconds=1)
    with installation.database.write() as connection:
        values = {"pause_deadline": passed, "claimable_at": passed}
        connection.execute(update(table).where(table.c.id == execution_id).values(values))
    return passed


def assert_stopped_at(installation: Installation, execution_id: str, deadline: str) -> None:
    eventually(lambda: executions.get(installation, execution_id).status == "cancelled")
    told = {event.type: event.message for event in executions.events(installation, execution_id)}
    reason = f"it was not resumed before its pause deadline, {deadline}"
    assert told["execution.stopping"] == f"Stopping: {reason}"
    assert told["execution.cancelled"] == f"Execution cancelled: {reason}"
    assert executions.get(installation, execution_id).pause_deadline is None
    assert seqs_have_no_gap(installation, execution_id)


def told_deadline(installation: Installation, execution_id: str) -> str:
    (paused,) = [e for e in executions.events(installation, execution_id) if e.type == "execution.paused"]
    return paused.message.partition("it will be stopped at ")[2].removesuffix(" unless it is resumed before")


def written(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


def test_an_idle_execution_without_a_driver_is_stopped(installation: Installation, tmp_path: Path) -> None:
    x = begin(installation, waits_for(tmp_path / "never"))
    running(installation, x)
    before = utc_now()
    commands.pause(installation, x, interrupt=True, deadline=FAR)
    undriven(installation, x)
    deadline = executions.get(installation, x).pause_deadline
    assert deadline is not None
    assert before + FAR <= deadline <= utc_now() + FAR
    assert told_deadline(installation, x) == written(deadline)
    with installation.database.read() as connection:
        assert connection.execute(select(table.c.claimable_at).where(table.c.id == x)).scalar_one() == deadline
    assert_stopped_at(installation, x, written(let_it_pass(installation, x)))


def test_an_execution_with_a_running_stage_is_stopped(installation: Installation, tmp_path: Path) -> None:
    x = begin(installation, waits_for(tmp_path / "never"))
    running(installation, x)
    commands.pause(installation, x, deadline=SOON)
    eventually(lambda: executions.get(installation, x).status == "cancelled")
    assert_stopped_at(installation, x, told_deadline(installation, x))
    seqs = {event.type: event.seq for event in executions.events(installation, x)}
    assert seqs["execution.paused"] < seqs["execution.stopping"] < seqs["stage.cancelled"], "the stage might finish"
    assert executions.stages(installation, x)[0].status == "cancelled"


def test_an_execution_whose_driver_was_killed_is_stopped(settings: Settings, tmp_path: Path) -> None:
    worker = start_worker(settings, tmp_path / "worker.log")
    try:
        with open_installation(settings) as installation:
            x = begin_elsewhere(installation, waits_for(tmp_path / "never"))
            running(installation, x)
            commands.pause(installation, x, deadline=FAR)
            eventually(lambda: executions.get(installation, x).status == "paused")
            worker.send_signal(signal.SIGKILL)
            worker.wait(120)
            deadline = let_it_pass(installation, x)
            installation.start_claiming()
            assert_stopped_at(installation, x, written(deadline))
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait(120)


def test_a_deadline_that_passed_without_any_process_is_applied_later(settings: Settings, tmp_path: Path) -> None:
    with open_installation(settings) as first:
        x = begin(first, waits_for(tmp_path / "never"))
        running(first, x)
        commands.pause(first, x, interrupt=True, deadline=FAR)
        undriven(first, x)
    with open_installation(settings) as second:
        deadline = let_it_pass(second, x)
        assert executions.get(second, x).status == "paused"
        second.start_claiming()
        assert_stopped_at(second, x, written(deadline))


def test_a_resume_requested_in_time_is_applied(settings: Settings, tmp_path: Path) -> None:
    """No process could apply it before the deadline passed."""
    go_on = tmp_path / "go-on"
    with open_installation(settings) as first:
        x = begin(first, waits_for(go_on))
        running(first, x)
        commands.pause(first, x, interrupt=True, deadline=FAR)
        undriven(first, x)
        commands.resume(first, x)
    go_on.touch()
    with open_installation(settings) as second:
        with second.database.write() as connection:
            passed = utc_now() - timedelta(seconds=1)
            connection.execute(update(table).where(table.c.id == x).values(pause_deadline=passed))
        second.start_claiming()
        eventually(lambda: executions.get(second, x).status == "completed")
        assert seqs_have_no_gap(second, x)


def test_a_resume_does_not_wait_for_the_deadline_and_ends_it(installation: Installation, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    x = begin(installation, waits_for(go_on))
    running(installation, x)
    commands.pause(installation, x, interrupt=True, deadline=FAR)
    undriven(installation, x)
    commands.resume(installation, x)
    running(installation, x)
    assert executions.get(installation, x).pause_deadline is None
    commands.pause(installation, x, deadline=FAR)
    eventually(lambda: executions.get(installation, x).status == "paused")
    assert "pause" in timers_of(installation, x)
    commands.resume(installation, x)
    eventually(lambda: executions.get(installation, x).status == "running")
    commands.pause(installation, x)
    eventually(lambda: executions.get(installation, x).status == "paused")
    assert "pause" not in timers_of(installation, x), "the deadline belonged to the pause before"
    assert executions.get(installation, x).pause_deadline is None
    commands.resume(installation, x)
    go_on.touch()
    eventually(lambda: executions.get(installation, x).status == "completed")


@pytest.mark.parametrize("deadline", [timedelta(0), timedelta(seconds=-1), timedelta(days=999_999)])
def test_a_deadline_must_be_in_the_future(installation: Installation, deadline: timedelta) -> None:
    with pytest.raises(InputError, match=r"^deadline: must be in the future, at most 3650 days away$"):
        commands.pause(installation, "exec-1", deadline=deadline)
