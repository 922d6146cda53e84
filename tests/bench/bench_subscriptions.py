"""Many subscribers of one execution: how late events come, also when the server is killed, and what it costs.

The clients are a process of their own. Times run from an event's own time, which is before its commit, to its arrival
at the client; what comes as history does not count.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from strawberry.asgi import GraphQL
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from flexiroaster.config import load_settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.web.authentication import LOCAL
from flexiroaster.web.streams import Streams
from graphql_api.app import create_app
from graphql_api.context import StreamContext
from graphql_api.schema import schema
from tests.bench.bench_graphql import served as served_here
from tests.integration.graphql_api.served import Served, served
from tests.integration.graphql_api.slow_chain import slow_chain
from tests.integration.graphql_api.subscribers import Seen, Subscribers
from tests.waiting import eventually

STAGES, SECONDS = 100, 0.05
CLIENTS, STALLED, FEW, PEERS = 200, 10, 10, 100
PROGRESS = "query ($id: ID!) { execution(id: $id) { status lastSeq completedStages } }"


def progress(server: Served, execution: str) -> dict[str, Any]:
    found: dict[str, Any] = server.data(PROGRESS, id=execution)["execution"]
    return found


def memory(process_id: int) -> float:
    """What a process has in memory, in MB."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def check(seen: Sequence[Seen], last: int) -> None:
    """Each client saw each event once, in order."""
    for each in seen:
        assert each.completed
        assert each.numbers == list(range(1, last + 1))


def late(seen: Sequence[Seen]) -> dict[str, float]:
    """How late live events came to the clients that read, in milliseconds."""
    times = sorted(time for each in seen for time in each.late)
    return {"count": len(times), "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


@contextmanager
def followed(server: Served, gate: Path, clients: int, stalled: int = 0) -> Iterator[tuple[str, Subscribers]]:
    """An execution that begins once all its subscribers are there."""
    gate.unlink(missing_ok=True)
    execution = server.start(*slow_chain(STAGES, SECONDS, gate))
    subscribers = Subscribers(server.port, execution, clients, stalled)
    try:
        subscribers.wait_until_subscribed()
        gate.touch()
        yield execution, subscribers
    finally:
        subscribers.end()


def run(server: Served, gate: Path, clients: int) -> dict[str, float]:
    """One execution, with nothing in its way."""
    with followed(server, gate, clients) as (execution, subscribers):
        seen = subscribers.result()
        check(seen, progress(server, execution)["lastSeq"])
    return late(seen)


def killed_in_the_middle(env: dict[str, str], gate: Path) -> dict[str, float]:
    """The load test of the promise, stalled clients and all."""
    with served(**env) as first, followed(first, gate, CLIENTS, STALLED) as (execution, subscribers):
        eventually(lambda: progress(first, execution)["completedStages"] >= STAGES // 2, within=120)
        first.process.kill()
        first.process.communicate()
        with served(**env, port=first.port) as second:
            eventually(lambda: progress(second, execution)["status"] == "COMPLETED", within=120)
            seen = subscribers.result()
            check(seen, progress(second, execution)["lastSeq"])
    assert all(each.connections > 1 for each in seen)
    return late(seen)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_subscribers(benchmark: Any, database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'b.db'}" if database == "sqlite" else request.getfixturevalue("postgres_url")
    # nobody reads the log here, and a pipe that is full would hold the server up
    env, gate = {"DATABASE_URL": url, "EXECUTION_LOCK_TTL": "3", "LOG_LEVEL": "WARNING"}, tmp_path / "go"
    figures: dict[str, Any] = {"killed": killed_in_the_middle(env, gate)}
    with served(**env) as server:
        run(server, gate, FEW)

        def many() -> None:
            figures["many"] = run(server, gate, CLIENTS)
            figures["idle"].append(memory(server.process.pid))

        figures["few"], figures["idle"] = run(server, gate, FEW), [memory(server.process.pid)]
        benchmark.pedantic(many, rounds=3)
    benchmark.extra_info["subscriptions"] = figures
    print(database, figures)


@contextmanager
def installation_of(folder: Path) -> Iterator[Installation]:
    settings = load_settings(
        database_url=f"sqlite:///{folder / 'peer.db'}",
        python_modules=("tests.integration.stages",),
        executor_workers=2,
    )
    with open_installation(settings) as opened:
        opened.start_claiming()
        yield opened


def strawberrys_own(installation: Installation) -> Starlette:
    """The peer: the same schema and the same streams behind the library's own handler."""
    streams = Streams(installation)

    class Peer(GraphQL[StreamContext, None]):
        async def get_context(self, request: object, response: object) -> StreamContext:
            return StreamContext(installation, LOCAL, streams)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        streams.end()
        streams.close()

    peer = Peer(schema, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL])
    return Starlette(routes=[WebSocketRoute("/graphql", peer)], lifespan=lifespan)


def fan_out(installation: Installation, application: Starlette, name: str, gate: Path) -> dict[str, float]:
    """One execution for many sockets of an application in this process, which also drives it."""
    stages = [{**stage, "type": "transform"} for stage in slow_chain(STAGES, SECONDS, gate)]
    revision = pipelines.save(installation, {"id": name, "name": name, "stages": stages})
    with served_here(application) as client:
        execution = executions.start(installation, revision)
        subscribers = Subscribers(client.base_url.port or 0, execution, PEERS)
        try:
            subscribers.wait_until_subscribed()
            gate.touch()
            seen = subscribers.result()
        finally:
            subscribers.end()
    check(seen, executions.get(installation, execution).last_seq)
    return late(seen)


def test_fan_out(benchmark: Any, tmp_path: Path) -> None:
    figures = {}
    with installation_of(tmp_path) as installation:
        figures["peer"] = fan_out(installation, strawberrys_own(installation), "peer", tmp_path / "peer")

        def ours() -> None:
            figures["ours"] = fan_out(installation, create_app(installation), "ours", tmp_path / "ours")

        benchmark.pedantic(ours, rounds=1)
    benchmark.extra_info["fan_out"] = figures
    print(figures)
