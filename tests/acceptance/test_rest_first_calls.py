"""The calls of docs/rest.md, unchanged, against the real program."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.integration.graphql_api.served import Served, served
from tests.waiting import eventually

QUIET = {"LOG_LEVEL": "WARNING"}
"""Nobody reads the program's log here, and a pipe that is full would hold it up."""

PAGE = (Path(__file__).parents[2] / "docs/rest.md").read_text()
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in re.split(r"\n(?=curl )", block.strip())
]


def call(server: Served, command: str, **ids: str) -> Any:
    """Run a command of the page with curl at this server's port; return the response."""
    command = command.replace("localhost:8000", f"localhost:{server.port}")
    for shown, real in ids.items():
        command = command.replace(f"{shown}-xxx", real)
    words = shlex.split(command)
    assert words[0] == "curl"
    done = subprocess.run([*words, "--silent", "--show-error", "--max-time", "60"], capture_output=True, check=True)
    return orjson.loads(done.stdout) if "-N" not in words else done.stdout.decode()


def command(part: str) -> str:
    """The one command of the page that contains this text."""
    (found,) = [each for each in COMMANDS if part in each]
    return found


CREATE = command("/api/pipelines ")
EXECUTE = command("/execute")
READ = next(each for each in COMMANDS if each.endswith("/exec-xxx"))


def create_and_execute(server: Served) -> str:
    created = call(server, CREATE)
    assert re.fullmatch(r"pipeline-[0-9a-f]{12}", created["id"])
    assert [stage["id"] for stage in created["stages"]] == ["load-data", "transform", "save-data"]
    accepted = call(server, EXECUTE, pipeline=created["id"])
    assert (accepted["success"], accepted["status"]) == (True, "accepted")
    return str(accepted["execution_id"])


def test_the_first_calls_run_a_pipeline_and_show_its_logs() -> None:
    with served(**QUIET) as server:
        execution_id = create_and_execute(server)
        eventually(lambda: call(server, READ, exec=execution_id)["status"] == "completed", within=60)
        detail = call(server, READ, exec=execution_id)
        assert detail["progress"] == 100.0
        assert [stage["status"] for stage in detail["stage_executions"]] == ["completed"] * 3
        logs = call(server, command("/logs"), exec=execution_id)
        assert logs["logs"][-1]["metadata"]["event"] == "execution.completed"
        assert "warning" in {line["level"] for line in logs["logs"]}  # no records came with the call
        events = call(server, command("/events"), exec=execution_id)
        assert events.count("\nevent: ") == logs["total"]
        assert call(server, command("/stop"), exec=execution_id)["detail"].startswith(
            "Cannot stop execution with status: completed"
        )


def test_pause_resume_and_stop(tmp_path: Path) -> None:
    """Use the same pipeline with two more stages, the first of which waits so that it can be paused."""
    gate = tmp_path / "go"
    with served(EXECUTOR_STOP_GRACE="1", **QUIET) as server:
        changed = CREATE.replace('"stages": [', f'"stages": [{two_steps(gate)},')
        assert changed != CREATE
        created = call(server, changed)
        first, second = (str(call(server, EXECUTE, pipeline=created["id"]).get("execution_id")) for _ in range(2))
        assert second == "None"  # one at a time

        def reaches(status: str, execution_id: str) -> None:
            eventually(lambda: call(server, READ, exec=execution_id)["status"] == status, within=60)

        reaches("running", first)
        assert call(server, command("/pause"), exec=first)["success"] is True
        gate.touch()
        reaches("paused", first)
        assert call(server, command("/resume"), exec=first)["success"] is True
        reaches("completed", first)
        gate.unlink()
        third = str(call(server, EXECUTE, pipeline=created["id"])["execution_id"])
        reaches("running", third)
        assert call(server, command("/stop"), exec=third)["success"] is True
        reaches("cancelled", third)


def two_steps(gate: Path) -> str:
    """A stage that waits for a file, and one that depends on it."""
    wait = {"function": "tests.integration.stages:wait_for_file", "arguments": {"path": str(gate)}}
    after = {"function": "tests.integration.stages:sleep_for", "arguments": {"seconds": 0}}
    stages = [
        {"id": "wait", "type": "transform", "config": {"operation": "python", **wait}},
        {"id": "after", "type": "transform", "config": {"operation": "python", **after}, "dependencies": ["wait"]},
    ]
    return ", ".join(orjson.dumps(stage).decode() for stage in stages)


WILD = [
    [{"id": "in", "type": "input", "config": {"source": "api"}}],
    [{"id": "in", "type": "input", "config": {
        "source": "api", "endpoint": "/data/users",
        "data": [{"id": 1, "name": "Ada", "age": 36}, {"id": 2, "name": "Bob", "age": 40}]}},
     {"id": "check", "type": "validation", "dependencies": ["in"],
      "config": {"schema": {"id": "integer", "name": "string", "age": "integer"}}},
     {"id": "norm", "type": "transform", "dependencies": ["check"],
      "config": {"operation": "normalize", "fields": ["name", "age"]}},
     {"id": "out", "type": "output", "dependencies": ["norm"],
      "config": {"destination": "database", "table": "processed_users"}}],
    [{"id": "in", "type": "input", "config": {"source": "api", "data": [{"a": "x", "b": 1}, {"a": 2, "b": None}]}},
     {"id": "norm", "type": "transform", "dependencies": ["in"], "config": {"operation": "normalize"}},
     {"id": "out", "type": "output", "dependencies": ["norm"], "config": {"destination": "database"}}],
]  # fmt: skip


def test_the_stage_configs_that_clients_use_run() -> None:
    with served(**QUIET) as server, httpx.Client(base_url=f"{server.url}/api", timeout=60) as http:
        for stages in WILD:
            created = http.post("/pipelines", json={"name": "wild", "stages": stages})
            assert created.status_code == 201, created.text
            started = http.post(f"/executions/{created.json()['id']}/execute", json={"records": [{"id": 7}]}).json()
            path = f"/executions/{started['execution_id']}"
            eventually(lambda path=path: http.get(path).json()["status"] not in {"pending", "running"}, within=60)
            assert http.get(path).json()["status"] == "completed", http.get(f"{path}/logs").text
