"""Logs of commands: `executions logs`, stored and live, and LOG_LEVEL and LOG_FORMAT."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.program import DAILY, flexiroaster, python_stage, started, write_definition
from tests.integration.test_runs import FUNCTIONS
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
ENV = {"PYTHON_MODULES": f'["{FUNCTIONS}"]', "PYTHONPATH": str(ROOT)}


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def begun(go_on: Path) -> tuple[Any, str]:
    """A run whose stage waits for a file, and the execution's id."""
    stage = python_stage("a", f"{FUNCTIONS}:wait_for_file", arguments={"path": str(go_on)})
    file = write_definition({"name": "Waits", "stages": [stage]})
    run = started("run", file, env=ENV)

    found: list[dict[str, Any]] = []

    def running() -> bool:
        listed = flexiroaster("executions", "list", "--status", "running", "--json")
        found.extend(json.loads(listed.stdout).get("executions", ()))
        return bool(found)

    eventually(running)
    return run, found[0]["execution_id"]


def test_logs_follow_an_execution_to_its_end(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    run, execution_id = begun(go_on)
    follower = started("executions", "logs", execution_id, "--follow", "--json")
    assert follower.stdout is not None
    first = json.loads(follower.stdout.readline())
    assert (first["seq"], first["type"]) == (1, "execution.created"), "it tells while the execution runs"
    go_on.touch()
    rest = follower.stdout.read()  # communicate() would not see what readline() has buffered
    assert follower.stderr is not None
    complaints = follower.stderr.read()
    assert (follower.wait(timeout=120), complaints) == (0, "")
    run.communicate(timeout=120)
    told = [first, *documents(rest)]
    stored = documents(flexiroaster("executions", "logs", execution_id, "--level", "debug", "--json").stdout)
    assert told == [line for line in stored if line["level"] != "debug"]
    assert told[-1]["type"] == "execution.completed"
    again = flexiroaster("executions", "logs", execution_id, "--follow")
    assert (again.returncode, len(again.stdout.splitlines())) == (0, len(told)), "it has ended: that is all"
    loud = flexiroaster("executions", "logs", execution_id, "--follow", "--level", "warning")
    assert (loud.returncode, loud.stdout) == (0, "")


def test_an_interrupt_ends_only_the_follower(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    run, execution_id = begun(go_on)
    follower = started("executions", "logs", execution_id, "--follow")
    assert follower.stdout is not None
    assert "Execution created" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, complaints = follower.communicate(timeout=120)
    assert (follower.returncode, complaints) == (130, "")
    assert json.loads(flexiroaster("executions", "show", execution_id, "--json").stdout)["status"] == "running"
    go_on.touch()
    run.communicate(timeout=120)
    assert run.returncode == 0


def test_an_unknown_execution_is_not_followed() -> None:
    done = flexiroaster("executions", "logs", "exec-1", "--follow")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: Execution not found: exec-1\n")


def test_a_run_logs_if_the_settings_ask_for_it() -> None:
    done = flexiroaster("run", write_definition(DAILY), "--json", LOG_FORMAT="json", LOG_LEVEL="info")
    assert done.returncode == 0, done.stderr
    execution_id = json.loads(done.stdout)["execution_id"]
    lines = documents(done.stderr)
    assert {line["execution"] for line in lines} == {execution_id}
    assert len({line["worker"] for line in lines}) == 1
    ended = next(line for line in lines if line["event_type"] == "stage.completed")
    assert (ended["stage"], ended["attempt"], ended["level"]) == ("orders", 1, "info")
    assert lines[-1]["event_type"] == "execution.completed"


@pytest.mark.parametrize(
    ("environment", "said"), [({"LOG_LEVEL": "ERROR"}, False), ({"LOG_FORMAT": "text"}, True), ({}, True)]
)
def test_level_and_format(environment: dict[str, str], said: bool) -> None:
    done = flexiroaster("run", write_definition(DAILY), **environment)
    assert done.returncode == 0
    assert done.stdout.startswith("completed")
    assert ("Stage completed" in done.stderr) is said
    assert ("worker=" in done.stderr) is ("LOG_FORMAT" in environment)


def test_commands_that_drive_an_execution_log_as_well() -> None:
    missing = {"id": "a", "type": "input", "config": {"source": "file", "path": "in.csv"}, "max_retries": 0}
    failed = flexiroaster("run", write_definition({"name": "Fails", "stages": [missing]}), "--json")
    execution_id = json.loads(failed.stdout)["execution_id"]
    Path("in.csv").write_text("x\n1\n")
    retried = flexiroaster("executions", "retry", execution_id, LOG_LEVEL="INFO")
    assert (retried.returncode, retried.stdout) == (0, f"completed: {execution_id}\n")
    assert documents(retried.stderr)[-1]["event_type"] == "execution.completed"


def test_the_demo_logs_if_the_settings_ask_for_it() -> None:
    done = flexiroaster("demo", "--json", LOG_LEVEL="INFO")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["answer"]) > 5
    assert {line["event_type"] for line in documents(done.stderr)} >= {"stage.started", "execution.completed"}


def test_a_pause_has_a_deadline() -> None:
    wrong = {
        "2x": "--for '2x': must be a number followed by d, h, m or s, such as 90d",
        "0s": "deadline: must be in the future",
    }
    for value, complaint in wrong.items():
        done = flexiroaster("executions", "pause", "exec-1", "--for", value)
        assert complaint in done.stderr
        assert done.returncode != 0
