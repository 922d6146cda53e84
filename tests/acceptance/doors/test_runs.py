"""A run gives the same result, the same error and the same log through every interface."""

from __future__ import annotations

import pytest

from tests.acceptance.doors.conftest import House
from tests.acceptance.doors.definitions import definition, python, sums
from tests.acceptance.doors.door import Door, RefusedError, Stage

AWKWARD = "Größe 'ä' \"漢字\" 🚀 \\ <b>&amp;</b> 100 % {x} $x \u202eabc; --"
"""Text that something between a client and the database may trip over."""


def test_a_run_completes(house: House, door: Door) -> None:
    pipeline, given = sums(), {"least": 3, "note": AWKWARD, "more": {"list": [1.5, None, True, "5"]}}
    execution = door.run(pipeline, given)
    seen = house.python.seen(execution)
    assert (seen.pipeline_id, seen.pipeline_name, seen.status) == (pipeline["id"], pipeline["id"], "completed")
    assert (seen.completed, seen.variables, seen.error) == (2, {"least": 3, "unused": "x", **given}, None)
    assert seen.stages == (
        Stage("load", "load", "completed", 3, None),
        Stage("keep", "Keep", "completed", 1, None),
    )
    lines = house.python.logs(execution)
    assert [(line.level, line.stage_id, line.message.partition(", by ")[0]) for line in lines] == [
        ("info", None, f"Execution created: {pipeline['id']}, revision 1"),
        ("info", None, f"Execution started: {pipeline['id']}"),
        ("info", "load", "Stage started: load"),
        ("info", "load", "Stage completed: load, 3 rows"),
        ("info", "keep", "Stage started: Keep"),
        ("info", "keep", "Stage completed: Keep, 1 rows"),
        ("info", None, "Execution completed: 2 of 2 stages"),
    ]


def test_a_failed_stage_is_reported(house: House, door: Door) -> None:
    bad = {**python("bad", "fails_with", secret=AWKWARD), "name": AWKWARD, "description": f"{AWKWARD}\n\ttwo"}
    texts = {"name": AWKWARD, "description": f"{AWKWARD}\ntwo", "variables": {"x": AWKWARD}}
    pipeline = definition(bad, python("next", "numbers", ["bad"]), **texts)
    execution = door.run(pipeline)
    seen = house.python.seen(execution)
    assert (seen.pipeline_name, seen.variables) == (AWKWARD, {"x": AWKWARD})
    assert (seen.status, seen.completed) == ("failed", 0)
    assert seen.error == f"Stage 'bad' failed: refused: {AWKWARD}"
    assert seen.stages == (
        Stage("bad", AWKWARD, "failed", None, f"refused: {AWKWARD}"),
        Stage("next", "next", "skipped", None, "skipped: the critical stage 'bad' failed"),
    )
    told = {line.message: (line.level, line.error_class) for line in house.python.logs(execution)}
    assert told[f"Stage failed: {AWKWARD}: refused: {AWKWARD}"] == ("error", "unknown")
    assert told[f"using {AWKWARD}"] == ("info", None)
    stored = house.python.definition(pipeline["id"])
    assert {name: stored[name] for name in texts} == texts
    assert {name: stored["stages"][0][name] for name in bad} == bad


def test_invalid_variables_are_refused(door: Door) -> None:
    stages = [
        {"id": name, "type": "input", "config": {"source": "file", "path": f"${{{name}}}"}} for name in ("one", "two")
    ]
    pipeline = definition(*stages)
    with pytest.raises(RefusedError) as refused:
        door.run(pipeline, {"one": 5})
    assert [(each.path, each.message, each.code) for each in refused.value.problems] == [
        ("stages[0].config.path", "must be text or a list, not 5", "string_type"),
        ("stages[1].config", "variable 'two' has no value", "missing_variable"),
    ]


def test_a_run_through_one_interface_looks_the_same_in_all(house: House) -> None:
    made: dict[str, str] = {}
    for door in house.doors.values():
        pipeline = sums()
        if door.name == "REST":
            pipeline = definition(python("bad", "fails_with", secret=AWKWARD), name=AWKWARD)
        made[pipeline["id"]] = door.run(pipeline, {"note": AWKWARD})
    (*_, failed) = made
    shown = {execution: house.python.seen(execution) for execution in made.values()}
    assert {seen.pipeline_id: seen.id for seen in shown.values()} == made
    assert all(seen.risk_score is not None for seen in shown.values())
    log = house.python.logs(made[failed])
    assert [line.seq for line in log] == sorted(line.seq for line in log)
    for door in house.doors.values():
        assert made.keys() <= {each for each, active in door.pipelines().items() if active}
        asked = list(shown)[2:] if door.name == "command line" else list(shown)  # a process costs a second
        assert {execution: door.show(execution) for execution in asked} == {each: shown[each] for each in asked}
        assert door.logs(made[failed]) == log
        assert door.executions(failed) == {made[failed]: "failed"}
        assert door.definition(failed)["name"] == AWKWARD
