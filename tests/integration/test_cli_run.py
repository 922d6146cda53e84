"""`flexiroaster run`: real executions in real processes, followed, stopped and inspected afterwards."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.program import BIG, DAILY, ORDERS, flexiroaster, python_stage, started, write_definition
from tests.waiting import eventually

STEPS = """
import logging, signal, time
from pathlib import Path

def careful(table):
    logging.getLogger("steps").warning("careful \\x1b[31m now")
    return table

def refuse(table):
    raise ValueError("no such region: Atlantis")

def sleep(mark: str, deaf: bool = False) -> None:
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(mark).touch()
    while True:
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _steps(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS)


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def cells(line: str) -> list[str]:
    return line.split()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return path.exists()

    eventually(there)


def session_of(process: subprocess.Popen[str]) -> list[int]:
    """The remaining processes of its session."""

    def is_in_session(pid: int) -> bool:
        try:
            return os.getsid(pid) == process.pid
        except (ProcessLookupError, PermissionError):
            return False

    return [pid for pid in psutil.pids() if is_in_session(pid)]


@contextmanager
def sleeping(tmp_path: Path, *options: str, deaf: bool = False, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A run whose only stage is sleeping."""
    stage = python_stage("nap", "steps:sleep", arguments={"mark": str(tmp_path / "asleep"), "deaf": deaf})
    file = write_definition({"name": "Nap", "stages": [stage]})
    process = started("run", file, "--allow-module", "steps", *options, env=env)
    try:
        wait_for(tmp_path / "asleep", process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_run_prints_its_progress_and_its_outcome() -> None:
    done = flexiroaster("run", write_definition(DAILY))
    assert done.returncode == 0
    first, heading, *stages = done.stdout.splitlines()
    assert first.startswith("completed after ")
    assert ": Daily sales, revision 1 (exec-" in first
    assert cells(heading) == ["stage", "status", "attempt", "duration", "rows"]
    assert [(c[0], c[1], c[2], c[-1]) for c in map(cells, stages)] == [
        ("orders", "completed", "1", "2"),
        ("big", "completed", "1", "1"),
    ]
    told = [line.split(maxsplit=2) for line in done.stderr.splitlines()]
    assert [(level, message) for _, level, message in told] == [
        ("INFO", "Execution started: Daily sales"),
        ("INFO", "Stage started: orders"),
        ("INFO", "Stage completed: orders, 2 rows"),
        ("INFO", "Stage started: big"),
        ("INFO", "Stage completed: big, 1 rows"),
        ("INFO", "Execution completed: 2 of 2 stages"),
    ]


def test_json_is_one_document_and_nothing_else() -> None:
    document = document_of(flexiroaster("run", write_definition(DAILY), "--json", "--var", "least=1"))
    stages = document.pop("stages")
    assert document.pop("execution_id").startswith("exec-")
    assert document.pop("duration") > 0
    assert document == {"pipeline_id": "daily-sales", "revision": 1, "status": "completed", "error": None}
    assert [list(stage) for stage in stages] == [
        ["id", "name", "status", "attempt", "duration", "rows", "output", "error"]
    ] * 2
    assert [(s["id"], s["name"], s["status"], s["attempt"], s["rows"], s["error"]) for s in stages] == [
        ("orders", "orders", "completed", 1, 2, None),
        ("big", "big", "completed", 1, 2, None),
    ]
    assert stages[1]["output"]["schema"] == {"order": "Int64", "amount": "Float64"}


def test_the_same_file_is_the_same_pipeline_and_a_change_is_a_revision() -> None:
    file = write_definition(DAILY)
    ids = [document_of(flexiroaster("run", file, "--json")) for _ in range(2)]
    write_definition({**DAILY, "description": "changed"})
    ids.append(document_of(flexiroaster("run", file, "--json")))
    assert [(d["pipeline_id"], d["revision"]) for d in ids] == [
        ("daily-sales", 1),
        ("daily-sales", 1),
        ("daily-sales", 2),
    ]
    listed = json.loads(flexiroaster("pipelines", "list", "--json").stdout)
    assert [(p["id"], p["revision"], p["stages"]) for p in listed["pipelines"]] == [("daily-sales", 2, 2)]
    Path("stored.yaml").write_text(flexiroaster("pipelines", "show", "daily-sales").stdout)
    again = document_of(flexiroaster("run", "stored.yaml", "--json"))
    assert (again["pipeline_id"], again["revision"]) == ("daily-sales", 2), "what `show` prints is the same definition"
    unknown = flexiroaster("pipelines", "show", "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "Error: Pipeline not found: nobody\n")


def test_a_failed_stage_is_named_on_stderr_and_in_the_document() -> None:
    stages = [ORDERS, python_stage("check", "steps:refuse", "orders"), {**BIG, "dependencies": ["check"]}]
    file = write_definition({**DAILY, "stages": stages})
    done = flexiroaster("run", file, "--allow-module", "steps")
    assert done.returncode == 1
    assert done.stdout.startswith("failed after ")
    assert done.stderr.splitlines()[-1] == "Error: Stage 'check' failed: no such region: Atlantis"
    done = flexiroaster("run", file, "--allow-module", "steps", "--json")
    assert done.returncode == 1
    document = document_of(done)
    assert (document["status"], document["error"]["stage_id"]) == ("failed", "check")
    assert [(s["id"], s["status"], s["attempt"]) for s in document["stages"]] == [
        ("orders", "completed", 1),
        ("check", "failed", 1),
        ("big", "skipped", 0),
    ]
    assert document["stages"][1]["error"]["type"] == "ValueError"


def test_a_module_that_is_not_allowed_is_not_called() -> None:
    file = write_definition({**DAILY, "stages": [ORDERS, python_stage("check", "steps:careful", "orders")]})
    done = flexiroaster("run", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stages[1].config.function: ")
    assert "steps" in done.stderr


def test_a_variable_without_a_value() -> None:
    done = flexiroaster("run", write_definition({**DAILY, "variables": {}}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stages[1].config: variable 'least' has no value\n"


def test_all_problems_of_the_variables_are_reported_at_once() -> None:
    stages = [{"id": n, "type": "input", "config": {"source": "file", "path": f"${{{n}}}"}} for n in ("one", "two")]
    done = flexiroaster("run", write_definition({"name": "Two", "stages": stages}), "--var", "one=5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "stages[0].config.path: must be text or a list, not 5",
        "stages[1].config: variable 'two' has no value",
    ]


def test_modules_next_to_the_file_are_found_and_lines_cannot_control_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "steps.py").rename(folder / "beside.py")
    stage = python_stage("check", "beside:careful", "orders")
    file = write_definition({**DAILY, "stages": [ORDERS, stage]}, str(folder / "pipeline.yaml"))
    done = flexiroaster("run", file, "--allow-module", "beside")
    assert done.returncode == 0, done.stderr
    assert "WARNING  check: careful \\x1b[31m now\n" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_executions_can_be_inspected_afterwards() -> None:
    file = write_definition(DAILY)
    done = document_of(flexiroaster("run", file, "--json", "--var", "least=4"))
    execution_id = done["execution_id"]
    flexiroaster("run", write_definition({**DAILY, "name": "Other", "stages": [ORDERS]}, "other.yaml"))

    listed = json.loads(flexiroaster("executions", "list", "--json").stdout)
    assert listed["total"] == 2
    assert [e["pipeline_name"] for e in listed["executions"]] == ["Other", "Daily sales"]
    assert listed["executions"][1]["triggered_by"] == "cli"
    of_one = json.loads(flexiroaster("executions", "list", "--pipeline", "daily-sales", "--json").stdout)
    assert [e["execution_id"] for e in of_one["executions"]] == [execution_id]
    assert json.loads(flexiroaster("executions", "list", "--status", "failed", "--json").stdout)["total"] == 0
    one = flexiroaster("executions", "list", "--limit", "1")
    assert len(one.stdout.splitlines()) == 2
    assert one.stderr == "1 of 2; --limit shows more\n"

    shown = flexiroaster("executions", "show", execution_id).stdout
    assert cells(shown.splitlines()[0]) == ["execution", execution_id]
    assert any(cells(line) == ["${least}", "4"] for line in shown.splitlines())
    document = json.loads(flexiroaster("executions", "show", execution_id, "--json").stdout)
    assert document["variables"] == {"least": 4}
    assert document["stages"] == done["stages"]

    logs = [json.loads(line) for line in flexiroaster("executions", "logs", execution_id, "--json").stdout.splitlines()]
    assert [event["type"] for event in logs][::6] == ["execution.created", "execution.completed"]
    assert [event["seq"] for event in logs] == [1, *range(3, 9)], "the risk is told at level debug while it is low"
    assert len(flexiroaster("executions", "logs", execution_id).stdout.splitlines()) == 7
    assert flexiroaster("executions", "logs", execution_id, "--level", "warning").stdout == ""


@pytest.mark.parametrize("send", ["group", "process"])
def test_an_interrupt_cancels_the_execution_and_leaves_nothing(tmp_path: Path, send: str) -> None:
    """Ctrl-C reaches every process of the group, SIGTERM of a service manager only ours."""
    with sleeping(tmp_path) as process:
        if send == "group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        stdout, stderr = process.communicate(timeout=120)
    name = "SIGINT" if send == "group" else "SIGTERM"
    assert process.returncode == 130, stderr
    assert "Stopping; interrupt again to kill running stages.\n" in stderr
    assert f"Execution cancelled: interrupted by {name}\n" in stderr
    assert stdout.startswith("cancelled after ")
    assert session_of(process) == []
    (execution,) = json.loads(flexiroaster("executions", "list", "--json").stdout)["executions"]
    assert (execution["status"], execution["error"]) == ("cancelled", None)


def test_a_second_interrupt_kills_unresponsive_stages(tmp_path: Path) -> None:
    with sleeping(tmp_path, deaf=True, EXECUTOR_STOP_GRACE="600") as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        while "Stopping; interrupt again" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert session_of(process) == []


def test_an_interrupted_run_still_prints_its_document(tmp_path: Path) -> None:
    with sleeping(tmp_path, "--json") as process:
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, "")
    document = json.loads(stdout)
    assert document["status"] == "cancelled"
    assert [stage["status"] for stage in document["stages"]] == ["cancelled"]


def test_a_time_limit_cancels_the_execution(tmp_path: Path) -> None:
    stage = python_stage("nap", "steps:sleep", arguments={"mark": str(tmp_path / "asleep")})
    file = write_definition({"name": "Nap", "stages": [stage]})
    done = flexiroaster("run", file, "--allow-module", "steps", "--timeout", "0.5")
    assert done.returncode == 1
    assert "Execution cancelled: the time limit of 0.5 s has passed\n" in done.stderr
    assert done.stdout.startswith("cancelled")


def on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Run it with stderr on a terminal; return exit code, stdout and the terminal output."""
    ours, theirs = pty.openpty()
    process = started(*arguments, stderr=theirs, env={"TERM": "xterm", "COLUMNS": "100", "LINES": "40"})
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        seen += chunk
    os.close(ours)
    stdout, _ = process.communicate(timeout=120)
    return process.returncode, stdout, seen.decode()


def test_a_terminal_gets_a_live_table_with_warnings_above(tmp_path: Path) -> None:
    file = write_definition(
        {
            **DAILY,
            "stages": [ORDERS, python_stage("check", "steps:careful", "orders"), {**BIG, "dependencies": ["check"]}],
        }
    )
    code, stdout, seen = on_a_terminal("run", file, "--allow-module", "steps", "--json")
    assert code == 0
    assert json.loads(stdout)["status"] == "completed"
    assert "check: careful \\x1b[31m now" in seen
    assert "orders" in seen
    assert "pending" in seen
    assert "\x1b[1A" in seen, "the table is drawn over itself"


def test_a_database_of_its_own(tmp_path: Path, postgres_url: str) -> None:
    env = {"DATABASE_URL": postgres_url}
    done = flexiroaster("run", write_definition(DAILY), "--json", **env)
    assert document_of(done)["status"] == "completed"
    listed = json.loads(flexiroaster("executions", "list", "--json", **env).stdout)
    assert [e["pipeline_id"] for e in listed["executions"]] == ["daily-sales"]
    assert not (tmp_path / ".flexiroaster" / "flexiroaster.db").exists()
