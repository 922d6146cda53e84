"""Slow requests, and too many at once: the server answers them and continues to answer others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexiroaster.config import load_settings
from flexiroaster.web import thread_pool
from graphql_api.transport import requests
from tests.integration.graphql_api.running import serving
from tests.unit.graphql_api.small_schema import RELEASED, schema
from tests.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path):
    return load_settings(database_url=f"sqlite:///{tmp_path / 'api.db'}")


@pytest.fixture(autouse=True)
def _released():
    RELEASED.clear()
    yield
    RELEASED.set()


@pytest.mark.parametrize("query", ["{ slow }", "{ stuck }"])
def test_a_request_past_its_deadline_gets_an_error(settings, query: str) -> None:
    """A request that waits on its loop is cancelled; one that blocks its thread is abandoned."""
    with serving(settings, schema, limit=0.5) as api:
        answer = api.post(query, accept=requests.GRAPHQL)
        assert answer.status_code == 503
        assert answer.json()["errors"][0]["extensions"] == {"code": "TIMEOUT"}
        echo = '{ echo(text: "still here") }'  # which may be out of time as well, as long as the machine is busy
        eventually(lambda: api.post(echo).json() == {"data": {"echo": "still here"}})
        RELEASED.set()  # the server waits for its threads


def test_blocked_requests_leave_the_server_alive_and_their_number_is_bounded(
    settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_pool, "_MAX_WAITING", 2)
    with serving(settings, schema) as api, ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(api.post, "{ stuck }") for _ in range(20)]
        eventually(lambda: sum(answer.done() for answer in asked) == 10, within=60)
        assert api.alive()
        RELEASED.set()
        codes = sorted(answer.result().status_code for answer in asked)
    assert codes == [200] * 10 + [503] * 10  # eight at work and two that waited


def test_each_thread_keeps_its_loop(settings) -> None:
    """Loaders and other objects of a loop must not move to another loop."""
    with serving(settings, schema) as api, ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: api.data(f'{{ echo(text: "{n}") }}')["echo"], range(300)))
    assert answers == [str(n) for n in range(300)]
