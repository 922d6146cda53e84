"""A command takes effect whichever interface sends it and whichever process drives the execution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.acceptance.doors.conftest import House
from tests.acceptance.doors.definitions import LOAD, definition, python, two_steps
from tests.acceptance.doors.door import Door
from tests.waiting import eventually

By = Callable[[str], Door]


def started(by: By, pipeline: dict[str, object]) -> str:
    by("create").create(pipeline)
    return by("start").start(str(pipeline["id"]))


def at_work(ours: Door, execution: str) -> None:
    """Wait until the first stage runs."""
    eventually(lambda: ours.seen(execution).stages[0].status == "running", within=60)


def test_stop_ends_the_execution(house: House, door: Door, by: By) -> None:
    ours = house.python
    execution = started(by, definition(python("long", "sleeps", seconds=600), python("next", "numbers", ["long"])))
    at_work(ours, execution)
    door.stop(execution)
    ours.wait(execution)
    seen = ours.seen(execution)
    assert (seen.status, seen.outline) == ("cancelled", [("long", "cancelled", None), ("next", "cancelled", None)])


def test_pause_and_resume_take_effect(house: House, door: Door, by: By, tmp_path: Path) -> None:
    ours = house.python
    execution = started(by, two_steps(tmp_path / "go"))
    at_work(ours, execution)
    door.pause(execution)
    ours.wait(execution)
    (tmp_path / "go").touch()  # what runs may finish
    eventually(lambda: ours.seen(execution).completed == 1, within=60)
    paused = ours.seen(execution)
    assert (paused.status, paused.outline) == ("paused", [("wait", "completed", None), ("after", "pending", None)])
    door.resume(execution)
    eventually(lambda: ours.seen(execution).status == "completed", within=60)
    assert ours.seen(execution).outline == [("wait", "completed", None), ("after", "completed", 3)]


def test_retry_continues_a_failed_execution(house: House, by: By, tmp_path: Path) -> None:
    ours, file = house.python, tmp_path / "there"
    execution = started(by, definition(LOAD, python("needs", "fails_unless", path=str(file))))
    ours.wait(execution)
    assert ours.seen(execution).error == "Stage 'needs' failed: not yet"
    file.touch()
    by("retry").retry(execution)
    eventually(lambda: ours.seen(execution).status == "completed", within=60)
    seen = ours.seen(execution)
    assert (seen.status, seen.error, seen.completed) == ("completed", None, 2)
    started_stages = [line.stage_id for line in ours.logs(execution) if line.message.startswith("Stage started")]
    assert sorted(started_stages, key=str) == ["load", "needs", "needs"], "what was completed is kept"


def test_a_rerun_cancels_the_oldest_execution(house: House, by: By, tmp_path: Path) -> None:
    ours, pipeline = house.python, {**two_steps(tmp_path / "go"), "on_conflict": "cancel_oldest"}
    (tmp_path / "go").touch()
    former = started(by, pipeline)
    ours.wait(former)
    (tmp_path / "go").unlink()
    live = by("start").start(pipeline["id"])
    at_work(ours, live)
    again = by("rerun").rerun(former, "after")
    ours.wait(again)
    assert ours.seen(again).outline == [("wait", "completed", None), ("after", "completed", 3)]
    assert ours.seen(live).status == "cancelled"
    created, *_, last = (line.message for line in ours.logs(again))
    assert created.startswith(f"Execution created: {pipeline['id']}, from stage 'after' of {former}, by ")
    assert last == "Execution completed: 2 of 2 stages"


def test_rollback_undoes_what_was_written(house: House, by: By) -> None:
    ours = house.python
    pipeline = definition(LOAD)
    table = pipeline["id"].replace("-", "_")
    config = {"destination": "database", "table": table}
    pipeline["stages"].append({"id": "save", "type": "output", "config": config, "dependencies": ["load"]})
    execution = started(by, pipeline)
    ours.wait(execution)
    assert house.rows(table) == [1, 2, 3]
    by("rollback").rollback(execution)
    eventually(lambda: ours.seen(execution).status == "rolled_back", within=60)
    seen = ours.seen(execution)
    assert (seen.status, [status for _, status, _ in seen.outline]) == ("rolled_back", ["completed", "rolled_back"])
    assert not house.rows(table)
