"""Decisions on the command line without a driver: the command line applies the override itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import open_installation
from tests.integration.decided import PAUSE, decided_pipeline
from tests.integration.program import flexiroaster

MODULES = "tests.integration.stages"
WHY = ("--reason", "known to be harmless")


def decided(good: Path, policy: dict[str, Any] | None = None) -> str:
    """Run a failing pipeline until it has ended or is paused; return the execution's id."""
    with open_installation(load_settings(python_modules=(MODULES,), redis_url="")) as installation:
        pipelines.save(installation, decided_pipeline("p", good, policy, output=True))
        execution_id = executions.start(installation, "p", drive=True)
        executions.wait(installation, execution_id, timeout=120)
    return execution_id


def document(execution_id: str) -> list[dict[str, Any]]:
    shown = flexiroaster("executions", "decisions", execution_id, "--json")
    assert shown.returncode == 0, shown.stderr
    found: list[dict[str, Any]] = json.loads(shown.stdout)["decisions"]
    return found


def test_a_paused_run_is_shown_and_its_stage_skipped(tmp_path: Path) -> None:
    execution_id = decided(tmp_path / "good", PAUSE)
    (decision,) = document(execution_id)
    assert (decision["action"], decision["taken"], decision["error_class"]) == ("pause", "pause", "data")
    assert (decision["outcome"], decision["overrides"]) == (None, [])
    assert len(decision["verdicts"]) == 6

    done = flexiroaster("executions", "override", decision["id"], "skip", *WHY)
    assert (done.returncode, done.stdout) == (0, f"completed: {execution_id}\n"), done.stderr
    shown = flexiroaster("executions", "decisions", execution_id)
    assert shown.returncode == 0, shown.stderr
    heading, line = shown.stdout.splitlines()
    assert heading.split() == ["decision", "at", "stage", "attempt", "error", "chosen", "taken", "reason", "outcome",
                               "overridden"]  # fmt: skip
    cells = line.split()
    assert (cells[0], cells[3:8]) == (decision["id"], ["check", "1", "data", "pause", "pause"])
    assert "a person can fix the cause, and completed work is kept" in line
    assert cells[-4:] == ["completed", "skip", "by", "cli"]
    (told,) = document(execution_id)[0]["overrides"]
    assert (told["action"], told["reason"], told["requested_by"]) == ("skip", WHY[1], "cli")


def test_run_ends_when_the_engine_pauses_it_and_names_the_next_command(tmp_path: Path) -> None:
    stage = {"id": "load", "type": "input", "config": {"source": "file", "path": "absent.csv"}, "max_retries": 0}
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"name": "P", "stages": [stage], "config": {"policy": {"pause": True}}}))
    done = flexiroaster("run", str(file))
    assert done.returncode == 1
    assert done.stdout.startswith("paused: P, revision 1 (exec-")
    assert "Paused by the safety engine; waiting for a decision: flexiroaster executions decisions exec-" in done.stderr


@pytest.mark.parametrize(
    ("action", "mended", "status", "error"),
    [
        ("retry", True, "completed", ""),
        ("retry", False, "paused", ""),
        ("rollback", False, "rolled_back", "Error: Stage 'check' failed: row 2 is bad\n"),
        ("terminate", False, "failed", "Error: Stage 'check' failed: row 2 is bad\n"),
    ],
)
def test_each_override_takes_effect(tmp_path: Path, action: str, mended: bool, status: str, error: str) -> None:
    execution_id = decided(tmp_path / "good", PAUSE)
    (decision,) = document(execution_id)
    if mended:
        (tmp_path / "good").touch()
    done = flexiroaster("executions", "override", decision["id"], action, *WHY, PYTHON_MODULES=json.dumps([MODULES]))
    assert (done.returncode, done.stdout) == (0, f"{status}: {execution_id}\n"), done.stderr
    assert done.stderr.endswith(error)
    if status == "paused":  # it failed again, and the first decision is not the newest any more
        late = flexiroaster("executions", "override", decision["id"], "skip", *WHY)
        assert (late.returncode, late.stderr.count("\n")) == (1, 1)
        assert late.stderr.startswith(f"Error: Decision {decision['id']} was superseded by ")


def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    execution_id = decided(tmp_path / "good")
    (decision,) = document(execution_id)
    assert (decision["action"], decision["outcome"]) == ("terminate", "failed")

    def refusal(*arguments: str) -> tuple[int, str]:
        done = flexiroaster("executions", *arguments)
        return done.returncode, done.stderr

    of = decision["id"]
    assert refusal("override", of, "pause", *WHY) == (
        1, "Error: Cannot pause execution with status: failed; allowed: retry, rollback\n"
    )  # fmt: skip
    assert refusal("override", of, "continue", *WHY) == (
        1, "Error: action: cannot continue because a stage has failed; retry or skip it\n"
    )  # fmt: skip
    assert refusal("override", of, "juggle", *WHY) == (
        2, "Error: 'juggle' is not an action: use one of continue, retry, skip, pause, rollback, terminate\n"
    )  # fmt: skip
    assert refusal("override", "exec-none.1", "skip", *WHY) == (1, "Error: Decision not found: exec-none.1\n")
    assert refusal("decisions", "exec-none") == (1, "Error: Execution not found: exec-none\n")
    code, told = refusal("override", of, "skip")
    assert (code, "--reason" in told) == (2, True)
    assert document(execution_id)[0]["overrides"] == []
