"""Commands from the command line without a driver: the command line applies them itself."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.integration.program import flexiroaster

DEFINITION = {
    "name": "Controlled",
    "stages": [
        {"id": "a", "type": "input", "config": {"source": "file", "path": "in.csv"}},
        {"id": "s", "type": "output", "dependencies": ["a"], "config": {"destination": "database", "table": "t"}},
    ],
}


def test_rollback_and_retry_without_any_worker(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(DEFINITION))
    failed = flexiroaster("run", "p.json", "--json")
    assert failed.returncode == 1
    execution_id = json.loads(failed.stdout)["execution_id"]

    (tmp_path / "in.csv").write_text("x\n1\n2\n")
    retried = flexiroaster("executions", "retry", execution_id)
    assert (retried.returncode, retried.stdout) == (0, f"completed: {execution_id}\n")
    with sqlite3.connect(tmp_path / ".flexiroaster" / "flexiroaster-output.db") as connection:
        assert connection.execute("SELECT x FROM t ORDER BY x").fetchall() == [(1,), (2,)]

    again = flexiroaster("executions", "rerun", execution_id, "--from", "s")
    assert again.returncode == 0
    assert again.stdout.startswith("completed: exec-")
    flexiroaster("executions", "rollback", again.stdout.split()[1])

    undone = flexiroaster("executions", "rollback", execution_id, "--reason", "oops")
    assert (undone.returncode, undone.stdout) == (0, f"rolled_back: {execution_id}\n")
    with sqlite3.connect(tmp_path / ".flexiroaster" / "flexiroaster-output.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 't'").fetchall() == []

    again = flexiroaster("executions", "stop", execution_id)
    assert again.returncode == 1
    assert again.stderr == "Error: Cannot stop execution with status: rolled_back; allowed: nothing\n"

    again = flexiroaster("executions", "stop", execution_id, "--json")
    assert (again.returncode, again.stderr) == (1, "")
    assert json.loads(again.stdout)["error"] == {
        "code": "not_allowed",
        "message": "Cannot stop execution with status: rolled_back; allowed: nothing",
    }


def test_scripts_get_a_document(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(DEFINITION))
    execution_id = json.loads(flexiroaster("run", "p.json", "--json").stdout)["execution_id"]
    (tmp_path / "in.csv").write_text("x\n1\n")
    retried = json.loads(flexiroaster("executions", "retry", execution_id, "--json").stdout)
    assert {name: retried[name] for name in ("execution_id", "command", "carried_out", "status")} == {
        "execution_id": execution_id,
        "command": "retry",
        "carried_out": True,
        "status": "completed",
    }
    again = json.loads(flexiroaster("executions", "rerun", execution_id, "--from", "s", "--json").stdout)
    assert (again["status"], again["pipeline_id"]) == ("completed", retried["pipeline_id"])
    shown = json.loads(flexiroaster("executions", "show", execution_id, "--json").stdout)
    assert 0 <= shown["risk_score"] <= 1
    assert f"risk score  {shown['risk_score']:.3f}" in flexiroaster("executions", "show", execution_id).stdout
