"""A page of executions over GraphQL, against a hand-written route that reads the same rows and answers plain JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flexiroaster.config import Settings
from flexiroaster.model.paging import Window
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation, open_installation
from graphql_api.app import create_app
from tests.history import add_executions
from tests.waiting import eventually

COUNT, SIZE, DEEP = 100_000, 50, 1000
FIELDS = ("id", "pipeline_id", "pipeline_name", "status", "triggered_by", "progress", "created_at", "completed_at")
QUERY = """
    query Page($after: String) {
      executions(first: 50, after: $after) {
        nodes { executionId pipelineId pipelineName status triggeredBy progress createdAt completedAt }
      }
    }
"""


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        add_executions(opened, COUNT, pipelines=20)
        if not opened.database.is_sqlite:
            with opened.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE executions")
        yield opened


@contextmanager
def served(app: Any) -> Iterator[httpx.Client]:
    """A client of the application on a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()


def plain(installation: Installation) -> Starlette:
    """The peer: the same service call, the same fields, no GraphQL."""

    def page(request: Request) -> Response:
        window = Window(first=SIZE, after=request.query_params.get("after"))
        found = executions.page(installation, ExecutionFilter(), window=window, leave_out={"variables", "error"})
        return Response(
            orjson.dumps([{name: getattr(row, name) for name in FIELDS} for row in found.items]),
            media_type="application/json",
        )

    return Starlette(routes=[Route("/page", page)])


def took(call: Callable[[], httpx.Response], rounds: int = 200) -> float:
    """The median of milliseconds."""
    times = []
    for turn in range(rounds + 20):
        began = perf_counter()
        answer = call()
        if turn >= 20:
            times.append(1000 * (perf_counter() - began))
        assert answer.status_code == 200
    return median(times)


def thousandth(installation: Installation) -> str:
    """The cursor behind the 999th page."""
    cursor = None
    for _ in range((DEEP - 1) * SIZE // 1000):
        cursor = executions.page(installation, window=Window(first=1000, after=cursor)).cursors[-1]
    assert cursor is not None
    return cursor


def test_a_page_over_graphql(benchmark: Any, installation: Installation) -> None:
    deep = thousandth(installation)
    with served(plain(installation)) as client:
        peer = took(lambda: client.get("/page"))
        peer_deep = took(lambda: client.get("/page", params={"after": deep}))
    with served(create_app(installation)) as client:

        def ask(after: str | None) -> httpx.Response:
            return client.post("/graphql", json={"query": QUERY, "variables": {"after": after}})

        first, last = took(lambda: ask(None)), took(lambda: ask(deep))
        benchmark.extra_info["graphql"] = {
            "first": first,
            "deep": last,
            "peer": peer,
            "peer_deep": peer_deep,
        }
        print(f"first {first:.2f} ms, thousandth {last:.2f} ms ({last / first:.2f}); by hand {peer:.2f}")
        benchmark.pedantic(lambda: ask(None), rounds=50, warmup_rounds=5)
