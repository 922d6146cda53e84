"""Every interface refuses the same requests, for the same reason and with the same message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexiroaster.model.command import CommandKind
from tests.acceptance.doors.conftest import House
from tests.acceptance.doors.definitions import definition, python, sums, two_steps
from tests.acceptance.doors.door import Door, Problem, RefusedError

By = Callable[[str], Door]

BROKEN = (
    {"id": "load", "type": "input", "config": {"source": "api", "dta": []}, "max_retries": -1},
    {"id": "keep", "type": "transform", "config": {"operation": "filter"}, "dependencies": ["laod"]},
    {"id": "keep", "type": "transform", "config": {"operation": "normalise"}, "dependencies": ["load"]},
)
PROBLEMS = [
    Problem("stages[0].max_retries", "must be at least 0, not -1", "greater_than_equal"),
    Problem("stages[2].id", "duplicate stage id 'keep', first used by stages[1]", "duplicate_id"),
    Problem("stages[1].dependencies[0]", "unknown stage 'laod'; did you mean 'load'?", "unknown_dependency"),
    Problem("stages[0].config.dta", "is not a known field; did you mean 'data'?", "extra_forbidden"),
    Problem("stages[1].config.where", "is required", "missing"),
    Problem(
        "stages[2].config.operation", "unknown operation 'normalise'; did you mean 'normalize'?", "unknown_operator"
    ),
]


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.code, caught.value.message


def test_an_invalid_definition_is_refused(house: House, door: Door, by: By) -> None:
    broken = definition(*BROKEN)
    with pytest.raises(RefusedError) as caught:
        door.run(broken)
    assert caught.value.code == "definition.invalid"
    assert list(caught.value.problems) == PROBLEMS
    assert by("validate").validate(broken) == PROBLEMS
    assert broken["id"] not in house.python.pipelines()


def test_an_unknown_pipeline_is_refused(door: Door, by: By) -> None:
    told = ("not_found", "Pipeline not found: nobody")
    assert refusal(lambda: by("start").start("nobody")) == told
    assert refusal(lambda: by("delete").delete("nobody")) == told
    assert refusal(lambda: by("activate").activate("nobody")) == told
    if door.name != "GraphQL":
        assert refusal(lambda: door.definition("nobody")) == told


def test_an_unknown_execution_is_refused(door: Door) -> None:
    told = ("not_found", "Execution not found: nobody")
    assert refusal(lambda: door.stop("nobody")) == told
    if door.name == "GraphQL":
        assert door.show("nobody") is None


def test_an_inactive_pipeline_does_not_start(house: House, door: Door, by: By) -> None:
    pipeline = sums()
    ours = house.python
    ours.create(pipeline)
    by("deactivate").deactivate(pipeline["id"])
    assert ours.pipelines()[pipeline["id"]] is False
    assert refusal(lambda: door.run(pipeline)) == ("not_allowed", f"Pipeline is not active: {pipeline['id']}")
    by("activate").activate(pipeline["id"])
    assert ours.pipelines()[pipeline["id"]] is True
    ours.wait(by("start").start(pipeline["id"]))


def test_a_run_beyond_the_concurrency_limit_is_refused(house: House, door: Door, tmp_path: Path) -> None:
    pipeline, ours = two_steps(tmp_path / "go"), house.python
    ours.create(pipeline)
    live = ours.start(pipeline["id"])
    told = ("conflict", f"Pipeline {pipeline['id']} is running already: {live}")
    assert refusal(lambda: door.run(pipeline)) == told
    (tmp_path / "go").touch()
    ours.wait(live)


def test_a_key_starts_one_execution(house: House, by: By) -> None:
    pipeline = sums()
    by("create").create(pipeline)
    starting, key = by("start_once"), f"key of {pipeline['id']}"
    first = starting.start_once(pipeline["id"], key, {"least": 3})
    assert starting.start_once(pipeline["id"], key, {"least": 3}) == first
    told = f"The idempotency key {key!r} was used for another request: {first}"
    assert refusal(lambda: starting.start_once(pipeline["id"], key, {"least": 1})) == ("conflict", told)
    house.python.wait(first)
    assert list(house.python.executions(pipeline["id"])) == [first]


def test_a_command_in_the_wrong_state_is_refused(house: House, door: Door, by: By) -> None:
    pipeline = definition(python("only", "numbers"))
    house.python.create(pipeline)
    execution = house.python.start(pipeline["id"])
    house.python.wait(execution)
    asked = [CommandKind.PAUSE] if door.name == "command line" else list(CommandKind)[:4]  # a process costs a second
    for command in asked:
        told = f"Cannot {command} execution with status: completed; allowed: rollback"
        assert refusal(lambda c=command: by(c).ask(c, execution)) == ("not_allowed", told)


def test_only_a_pipeline_without_live_executions_is_deleted(house: House, by: By, tmp_path: Path) -> None:
    pipeline, ours = two_steps(tmp_path / "go"), house.python
    by("create").create(pipeline)
    live = by("start").start(pipeline["id"])
    told = ("conflict", f"Pipeline {pipeline['id']} has live executions: {live}")
    assert refusal(lambda: by("delete").delete(pipeline["id"])) == told
    (tmp_path / "go").touch()
    ours.wait(live)
    by("delete").delete(pipeline["id"])
    assert pipeline["id"] not in ours.pipelines()
    assert ours.seen(live).status == "completed"
