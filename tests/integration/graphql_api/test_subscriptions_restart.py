"""Twenty clients follow one execution, three of them stalled, and the server is killed midway.

The load test with 200 clients and its figures are in `tests/bench/bench_subscriptions.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.graphql_api.served import Served, served
from tests.integration.graphql_api.slow_chain import slow_chain
from tests.integration.graphql_api.subscribers import Seen, Subscribers
from tests.waiting import eventually

STAGES, CLIENTS, STALLED = 30, 20, 3
COUNT = "query ($id: ID!) { execution(id: $id) { status lastSeq completedStages } }"


def check(seen: list[Seen], last: int) -> None:
    """Check that every client saw every event once, in order, up to the end."""
    for each in seen:
        assert each.completed
        assert each.numbers == list(range(1, last + 1))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_killed_server_loses_no_event(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}" if database == "sqlite" else request.getfixturevalue("postgres_url")
    env = {"DATABASE_URL": url, "EXECUTION_LOCK_TTL": "3", "LOG_LEVEL": "WARNING"}
    gate, second_gate = tmp_path / "go", tmp_path / "go on"
    with served(**env) as first:
        execution = first.start(*slow_chain(STAGES, 0.05, gate, second_gate))
        clients = Subscribers(first.port, execution, CLIENTS, STALLED)
        try:
            clients.wait_until_subscribed()
            gate.touch()
            eventually(lambda: progress(first, execution)["completedStages"] == STAGES // 2, within=120)
            first.process.kill()
            first.process.communicate()
            second_gate.touch()
            with served(**env, port=first.port) as second:
                eventually(lambda: progress(second, execution)["status"] == "COMPLETED", within=120)
                last = progress(second, execution)["lastSeq"]
                seen = clients.result()
        finally:
            clients.end()
    check(seen, last)
    assert all(each.connections > 1 for each in seen)  # all of them had to come back


def progress(server: Served, execution: str) -> dict[str, Any]:
    return server.data(COUNT, id=execution)["execution"]
