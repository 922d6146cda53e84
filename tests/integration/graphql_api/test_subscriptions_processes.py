"""One worker drives and two servers deliver: a client sees the same from each."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.graphql_api.served import ENV, Served, served
from tests.integration.graphql_api.slow_chain import slow_chain
from tests.integration.graphql_api.subscribers import Subscribers
from tests.integration.program import started

STAGES, CLIENTS = 20, 5
LAST = "query ($id: ID!) { execution(id: $id) { status lastSeq } }"


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment with the transport between the processes."""
    quiet = {"LOG_LEVEL": "WARNING"}
    if request.param == "sqlite":
        return {**quiet, "DATABASE_URL": f"sqlite:///{tmp_path / 'p.db'}"}
    database = {**quiet, "DATABASE_URL": request.getfixturevalue("postgres_url")}
    return (
        database if request.param == "postgresql" else {**database, "REDIS_URL": request.getfixturevalue("redis_url")}
    )


@pytest.fixture
def servers(env: dict[str, str]) -> Iterator[tuple[Served, Served]]:
    """Two servers that drive nothing, and a worker."""
    with served("--no-executor", **env) as one, served("--no-executor", **env) as other:
        worker = started("worker", env={**ENV, **env})
        yield one, other
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)


def test_every_server_delivers_every_event(servers: tuple[Served, Served], tmp_path: Path) -> None:
    gate = tmp_path / "go"
    execution = servers[0].start(*slow_chain(STAGES, 0.05, gate))
    followed = [Subscribers(server.port, execution, CLIENTS) for server in servers]
    try:
        for subscribers in followed:
            subscribers.wait_until_subscribed()
        gate.touch()
        seen = [each for subscribers in followed for each in subscribers.result()]
    finally:
        for subscribers in followed:
            subscribers.end()
    found = servers[1].data(LAST, id=execution)["execution"]
    assert found["status"] == "COMPLETED"
    for each in seen:
        assert each.completed
        assert each.numbers == list(range(1, found["lastSeq"] + 1))
        assert each.connections == 1
        assert each.payloads > 1  # the first one before the gate was opened: they came as it went on
