"""`flexiroaster serve`, the real program: it binds, runs executions, and hands them over on SIGTERM."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.graphql_api.served import ENV, served
from tests.integration.program import flexiroaster, started
from tests.waiting import eventually


def waiting(path: Path) -> dict[str, Any]:
    """A stage that ends once the file exists."""
    config = {
        "operation": "python",
        "function": "tests.integration.stages:wait_for_file",
        "arguments": {"path": str(path)},
    }
    return {"id": "w", "type": "TRANSFORM", "config": config, "timeout": 120}


ORDERS = {"id": "orders", "type": "INPUT", "config": {"source": "api", "data": [{"n": 1}]}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_an_execution_and_exits_cleanly(number: signal.Signals) -> None:
    with served() as server:
        execution = server.start(ORDERS)
        eventually(lambda: server.status(execution) == "COMPLETED", within=60)
        code, log = server.end(number)
    lines = [json.loads(line) for line in log.splitlines()]
    assert code == 0
    assert f"Serving GraphQL at {server.url}/graphql" in [line["event"] for line in lines]
    assert "Handed over." in [line["event"] for line in lines]


def test_running_executions_are_handed_over_to_the_next_server(tmp_path: Path) -> None:
    """The first server gets SIGTERM midway; the second continues long before a lease would expire."""
    signal_file = tmp_path / "go"
    with served(EXECUTION_LOCK_TTL="600") as first:
        execution = first.start(waiting(signal_file))
        eventually(lambda: first.status(execution) == "RUNNING", within=60)
        assert first.end()[0] == 0
    signal_file.touch()
    with served(EXECUTION_LOCK_TTL="600") as second:
        eventually(lambda: second.status(execution) == "COMPLETED", within=60)


def test_without_executor_it_leaves_executions_to_workers() -> None:
    with served("--no-executor") as server:
        execution = server.start(ORDERS)
        assert server.status(execution) == "PENDING"
        worker = started("worker", env=ENV)
        eventually(lambda: server.status(execution) == "COMPLETED", within=60)
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
        assert server.end()[0] == 0


def test_a_public_address_is_refused_without_tokens() -> None:
    done = flexiroaster("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - to see it refused
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: HOST: 0.0.0.0 is reachable from other machines")


def test_an_address_in_use_is_an_error_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = flexiroaster("serve", "--port", str(taken.getsockname()[1]))
    assert process.returncode != 0
    assert "address already in use" in process.stderr
    assert "Traceback" not in process.stderr
