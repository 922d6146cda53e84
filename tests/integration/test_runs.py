"""Whole executions through the service: processes, database, files; on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import DefinitionError, NotAllowedError, NotFoundError
from flexiroaster.model.event import Event, Level
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation, open_installation
from tests.waiting import eventually

FUNCTIONS = "tests.integration.stages"


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    allowed = settings.model_copy(update={"python_modules": (FUNCTIONS,), "executor_stop_grace": 0.5})
    with open_installation(allowed) as opened:
        yield opened


def python(stage_id: str, function: str, *dependencies: str, **fields: Any) -> dict[str, Any]:
    arguments = fields.pop("arguments", {})
    config = {"operation": "python", "function": f"{FUNCTIONS}:{function}", "arguments": arguments}
    stage = {"id": stage_id, "type": "transform", "config": config, "dependencies": list(dependencies)}
    return {**stage, "max_retries": 0, **fields}


def rows(stage_id: str, *data: dict[str, Any]) -> dict[str, Any]:
    return {"id": stage_id, "type": "input", "config": {"source": "api", "data": list(data)}}


def run(installation: Installation, *stages: dict[str, Any], **fields: Any) -> executions.ExecutionRow:
    variables = fields.pop("given", None)
    revision = pipelines.create(installation, {"name": "Test", "stages": list(stages), **fields})
    return executions.wait(installation, executions.start(installation, revision, variables), timeout=120)


def stages_of(installation: Installation, execution: executions.ExecutionRow) -> dict[str, executions.StageRow]:
    return {stage.stage_id: stage for stage in executions.stages(installation, execution.id)}


def messages(installation: Installation, execution: executions.ExecutionRow, level: Level = Level.DEBUG) -> list[str]:
    found = executions.logs(installation, execution.id, level=level, limit=5000)
    return [event.message for event in found]


def test_tables_go_through_a_diamond(installation: Installation) -> None:
    done = run(
        installation,
        rows("people", {"id": 1, "name": " Ada "}, {"id": 2, "name": "Bob"}),
        rows("ages", {"id": 1, "age": 36}, {"id": 2, "age": 40}),
        {"id": "clean", "type": "transform", "config": {"operation": "normalize", "fields": ["name"]},
         "dependencies": ["people"]},
        {"id": "joined", "type": "transform", "config": {"operation": "join", "on": ["id"]},
         "dependencies": ["clean", "ages"]},
        python("checked", "expect_people", "joined"),
    )  # fmt: skip
    assert done.error is None
    assert (done.status, done.completed_stages, done.progress) == ("completed", 5, 100.0)
    stages = stages_of(installation, done)
    assert {i: s.output["rows"] for i, s in stages.items()} == dict.fromkeys(stages, 2)
    assert stages["joined"].output["schema"] == {"id": "Int64", "name": "String", "age": "Int64"}


def test_the_log_tells_the_whole_story_without_a_gap(installation: Installation) -> None:
    done = run(installation, rows("a", {"x": 1}), python("b", "talkative", "a"))
    events = executions.events(installation, done.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].seq == done.last_seq
    said = [(e.level, e.message.partition(" (")[0]) for e in events if e.type == "stage.log"]
    assert said == [
        ("info", "printed"),
        ("warning", "to stderr"),
        ("info", "logged 1"),
        ("error", "logged with traceback"),
        ("warning", "UserWarning: warned"),
    ]
    traceback = next(e.data["traceback"] for e in events if e.message == "logged with traceback")
    assert "ValueError: inner" in traceback
    assert [e.type for e in events if e.type != "stage.log"] == [
        "execution.created",
        "risk.assessed",
        "execution.started",
        "stage.started",
        "stage.completed",
        "stage.started",
        "stage.progress",
        "stage.completed",
        "execution.completed",
    ]


def test_logs_come_while_the_stage_still_runs(installation: Installation, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    seen = threading.Event()

    def listen(events: Any) -> None:
        if any(event.message == "waiting now" for event in events):
            seen.set()

    installation.driver.listen(listen)
    stage = python("a", "wait_for_file", arguments={"path": str(go_on)})
    revision = pipelines.create(installation, {"name": "Test", "stages": [stage]})
    execution_id = executions.start(installation, revision)
    assert seen.wait(120)
    assert executions.get(installation, execution_id).status == "running"
    go_on.touch()
    assert executions.wait(installation, execution_id, timeout=120).status == "completed"


def test_independent_stages_run_at_the_same_time(installation: Installation, tmp_path: Path) -> None:
    """Each of two stages waits for a file that the other one writes."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    done = run(
        installation,
        python("a", "meet", arguments={"mine": here, "theirs": there}),
        python("b", "meet", arguments={"mine": there, "theirs": here}),
    )
    assert done.status == "completed"


def test_a_failed_attempt_is_repeated_with_what_it_needs(installation: Installation, tmp_path: Path) -> None:
    counter = {"path": str(tmp_path / "count"), "failures": 2}
    done = run(
        installation,
        rows("a", {"x": 1}),
        python("b", "fail_first", "a", arguments=counter, max_retries=3, retry_delay=0.01),
    )
    assert done.status == "completed"
    assert stages_of(installation, done)["b"].attempt == 3
    retries = [m for m in messages(installation, done, Level.WARNING) if "next attempt" in m]
    assert [m.partition(" s (")[2] for m in retries] == ["3 left): b: not yet (1)", "2 left): b: not yet (2)"]


def test_a_defect_of_the_code_is_not_repeated(installation: Installation) -> None:
    done = run(installation, rows("a", {"x": 1}), python("b", "type_error", "a", max_retries=5))
    stage = stages_of(installation, done)["b"]
    assert (done.status, stage.attempt, stage.error["class"]) == ("failed", 1, "code")
    assert stage.error["type"] == "TypeError"
    assert "type_error" in stage.error["traceback"]
    assert done.error["stage_id"] == "b"


@pytest.mark.parametrize(
    ("function", "fields", "error_class", "message"),
    [
        ("sleep_long", {"timeout": 0.3}, "timeout", "the attempt exceeded its time limit of 0.3 s and was killed"),
        ("exit_3", {}, "crash", "the stage's process ended with exit code 3"),
        ("kill_itself", {}, "crash", "killed by SIGKILL"),
        ("eat_memory", {"memory_limit": 512}, "resource", "out of memory: the stage may use 512 MiB"),
        ("no_table", {}, "code", f"{FUNCTIONS}:no_table returned int, expected a table"),
    ],
)
def test_what_goes_wrong_in_a_stage_ends_that_attempt_only(
    installation: Installation, function: str, fields: dict[str, Any], error_class: str, message: str
) -> None:
    done = run(
        installation,
        python("bad", function, is_critical=False, **fields),
        rows("good", {"x": 1}),
        python("after", "type_error", "bad"),
    )
    stages = stages_of(installation, done)
    assert done.status == "completed"
    assert {i: str(s.status) for i, s in stages.items()} == {"bad": "failed", "good": "completed", "after": "skipped"}
    assert stages["bad"].error["class"] == error_class
    assert message in stages["bad"].error["message"]
    again = run(installation, rows("good", {"x": 1}))
    assert again.status == "completed", "a fresh process took the place of the dead one"


def test_100_mb_of_prints_are_cut_not_kept(installation: Installation) -> None:
    done = run(installation, python("chatty", "print_100_mb"))
    assert done.status == "completed"
    lines = messages(installation, done)
    assert len(lines) < 2100
    assert sum(map(len, lines)) < 2_000_000
    assert any("output truncated" in line for line in lines)


@pytest.mark.parametrize(("function", "grace", "kept"), [("cleans_up", 600.0, True), ("deaf", 0.5, False)])
def test_stop_is_cooperative_then_final(
    settings: Settings, tmp_path: Path, function: str, grace: float, kept: bool
) -> None:
    allowed = settings.model_copy(update={"python_modules": (FUNCTIONS,), "executor_stop_grace": grace})
    with open_installation(allowed) as installation:
        mark = tmp_path / function
        stages = [python("a", function, arguments={"path": str(mark)}), python("b", "type_error", "a")]
        execution_id = executions.start(installation, pipelines.create(installation, {"name": "T", "stages": stages}))
        eventually(mark.exists)
        commands.stop(installation, execution_id, "enough")
        done = executions.wait(installation, execution_id, timeout=120)
        assert done.status == "cancelled"
        assert {i: str(s.status) for i, s in stages_of(installation, done).items()} == dict.fromkeys("ab", "cancelled")
        assert (mark.read_text() == "cleaned up") is kept
        with pytest.raises(
            NotAllowedError, match=r"^Cannot stop execution with status: cancelled; allowed: retry, rollback$"
        ):
            commands.stop(installation, execution_id)


def test_a_whole_execution_has_a_limit(installation: Installation) -> None:
    done = run(installation, python("a", "sleep_long"), python("b", "sleep_long", "a"), timeout=0.5)
    assert (done.status, done.error["class"]) == ("failed", "timeout")
    assert done.error["message"] == "The execution exceeded its time limit of 0.5 s"


def test_an_execution_keeps_the_revision_it_started_with(installation: Installation, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    body = {
        "name": "T",
        "stages": [python("a", "wait_for_file", arguments={"path": str(go_on)}), python("b", "two", "a")],
    }
    first = pipelines.create(installation, body)
    execution_id = executions.start(installation, first)
    body["stages"][1] = python("b", "type_error", "a")
    second = pipelines.replace(installation, first.id, body)
    assert (first.revision, second.revision) == (1, 2)
    go_on.touch()
    done = executions.wait(installation, execution_id, timeout=120)
    assert (done.status, done.revision) == ("completed", 1)
    assert pipelines.get(installation, first.id, revision=1).pipeline == first.pipeline


def test_variables_fill_configs_and_are_checked_before_anything_runs(installation: Installation) -> None:
    stage = {"id": "a", "type": "transform", "dependencies": ["in"],
             "config": {"operation": "filter", "where": "x > ${least}"}}  # fmt: skip
    body = {"name": "T", "stages": [rows("in", {"x": 1}, {"x": 5}), stage], "variables": {"least": 0}}
    revision = pipelines.create(installation, body)
    for given, expected in ((None, 2), ({"least": 3}, 1)):
        done = executions.wait(installation, executions.start(installation, revision, given), timeout=120)
        assert stages_of(installation, done)["a"].output["rows"] == expected
    missing = pipelines.create(installation, {**body, "variables": {}})
    with pytest.raises(DefinitionError, match=r"^stages\[1\].config: variable 'least' has no value$"):
        executions.start(installation, missing)
    assert executions.count(installation, ExecutionFilter(pipeline_ids=(missing.id,))) == 0


@pytest.mark.parametrize(
    "stages",
    [
        [{"id": "a", "type": "input", "config": {"source": "api"}},
         {"id": "b", "type": "transform", "config": {"operation": "normalize"}, "dependencies": ["a"]},
         {"id": "c", "type": "output", "config": {"destination": "database"}, "dependencies": ["b"]}],
        [{"id": "a", "type": "input", "config": {"source": "api", "endpoint": "/data/users", "data": [
            {"id": 1, "name": " Ann ", "age": 3}, {"id": 2, "name": "Bo", "age": "x"}, {"id": 3, "age": None}]}},
         {"id": "v", "type": "validation", "dependencies": ["a"],
          "config": {"schema": {"id": "integer", "name": "string"}}},
         {"id": "b", "type": "transform", "dependencies": ["v"],
          "config": {"operation": "normalize", "fields": ["name", "age"]}},
         {"id": "c", "type": "output", "dependencies": ["b"],
          "config": {"destination": "database", "table": "processed_users"}}],
    ],
    ids=["nothing", "mixed types"],
)  # fmt: skip
def test_the_sample_configs_of_the_contract_run(installation: Installation, stages: list[dict[str, Any]]) -> None:
    done = run(installation, *stages)
    assert done.error is None
    assert done.status == "completed"


def test_records_may_come_with_the_call(installation: Installation) -> None:
    revision = pipelines.create(installation, {"name": "T", "stages": [{"id": "a", "type": "input",
                                                                       "config": {"source": "api"}}]})  # fmt: skip
    given = {"records": [{"x": 1}, {"x": 2}]}
    done = executions.wait(installation, executions.start(installation, revision, given), timeout=120)
    assert stages_of(installation, done)["a"].output["rows"] == 2
    done = executions.wait(installation, executions.start(installation, revision), timeout=120)
    assert done.status == "completed"
    assert len(messages(installation, done, Level.WARNING)) == 1


def test_what_does_not_exist(installation: Installation) -> None:
    with pytest.raises(NotFoundError, match=r"^Execution not found: nobody$"):
        executions.get(installation, "nobody")
    with pytest.raises(NotFoundError, match=r"^Pipeline not found: nobody$"):
        executions.start(installation, "nobody")


def test_an_inactive_pipeline_does_not_start(installation: Installation) -> None:
    revision = pipelines.create(installation, {"name": "T", "is_active": False, "stages": [rows("a", {"x": 1})]})
    with pytest.raises(NotAllowedError, match=f"^Pipeline is not active: {revision.id}$"):
        executions.start(installation, revision)


def test_many_executions_from_many_threads(installation: Installation) -> None:
    revision = pipelines.create(
        installation,
        {
            "name": "T",
            "concurrency": None,
            "stages": [rows("a", {"x": 1}), python("b", "two", "a"), python("c", "two", "b")],
        },
    )
    ids: list[str] = []

    def start() -> None:
        ids.extend(executions.start(installation, revision) for _ in range(5))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {executions.wait(installation, i, timeout=120).status for i in ids} == {"completed"}
    for execution_id in ids:
        events: list[Event] = executions.events(installation, execution_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
