"""Server-sent events: each has its cursor as id, and a client that sends the last id resumes exactly there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexiroaster.config import load_settings
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from flexiroaster.service.executions import executions
from flexiroaster.web import streams
from tests.integration.graphql_api.following import StreamEvent, numbers, streamed
from tests.integration.graphql_api.live import EVENTS, Live, living
from tests.integration.graphql_api.running import Api
from tests.waiting import eventually


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("sse")
    settings = load_settings(database_url=f"sqlite:///{folder / 'api.db'}", executor_workers=1)
    with living(settings, folder) as running:
        yield running
        running.open_gate()


@pytest.fixture
def ended(live: Live) -> str:
    execution_id = live.start("nothing", "nothing")
    executions.wait(live.api.installation, execution_id, 60)
    return execution_id


def batches(events: list[StreamEvent]) -> list[Any]:
    return [event.data["data"]["executionEvents"] for event in events if event.name == "next"]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_stream_from_history_to_the_end(live: Live, method: str) -> None:
    live.gate.unlink(missing_ok=True)
    execution_id = live.start("waits", "nothing")
    events = []
    with streamed(live.api, EVENTS, {"id": execution_id}, method) as stream:
        for event in stream:
            events.append(event)
            live.open_gate()
    found = batches(events)
    assert numbers(found) == list(range(1, numbers(found)[-1] + 1))
    assert found[-1]["execution"]["status"] == "COMPLETED"
    assert [event.name for event in events] == ["next"] * len(found) + ["complete"]
    assert [event.id for event in events[:-1]] == [batch["cursor"] for batch in found]
    eventually(lambda: live.streams.feeds == 0)


def test_the_last_event_id_takes_precedence_over_the_variable(live: Live, ended: str) -> None:
    """A browser repeats the same request and adds the header."""
    everything = [event.seq for event in executions.events(live.api.installation, ended)]
    cursors = live.api.data(
        "query ($id: ID!) { execution(id: $id) { events(first: 500) { edges { cursor } } } }", {"id": ended}
    )["execution"]["events"]["edges"]
    for number, edge in enumerate(cursors, start=1):
        for variables in ({"id": ended}, {"id": ended, "after": cursors[0]["cursor"]}):
            with streamed(live.api, EVENTS, variables, last_event_id=edge["cursor"]) as stream:
                assert numbers(batches(list(stream))) == everything[number:]
        with streamed(live.api, EVENTS, {"id": ended, "after": edge["cursor"]}) as stream:
            assert numbers(batches(list(stream))) == everything[number:]


def test_an_operation_that_cannot_begin_is_reported_in_the_stream(live: Live, ended: str) -> None:
    """Browsers cannot read the body of any other response."""
    cases: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
        (EVENTS, {"id": "absent"}, {}, "not_found"),
        (EVENTS, {"id": ended}, {"last_event_id": "garbage"}, "input.invalid"),
        ("subscription { nothing }", {}, {}, "GRAPHQL_VALIDATION_FAILED"),
        ("subscription {", {}, {}, "GRAPHQL_PARSE_FAILED"),
    ]
    for query, variables, headers, code in cases:
        with streamed(live.api, query, variables, **headers) as stream:
            first, last = list(stream)
        assert first.data["errors"][0]["extensions"]["code"] == code
        assert first.id is None
        assert (last.name, last.data) == ("complete", None)


def test_a_quiet_stream_sends_keep_alives(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.05)
    live.gate.unlink(missing_ok=True)
    execution_id = live.start("waits")
    with streamed(live.api, EVENTS, {"id": execution_id}, signs_of_life=True) as stream:
        while next(stream).name is not None:
            pass
        live.open_gate()
        rest = batches(list(stream))
    assert rest[-1]["execution"]["status"] == "COMPLETED"


def test_a_disconnected_client_is_detected(live: Live) -> None:
    live.gate.unlink(missing_ok=True)
    execution_id = live.start("waits")
    with streamed(live.api, EVENTS, {"id": execution_id}) as stream:
        next(stream)
        eventually(lambda: live.streams.feeds == 1)  # those of other tests have ended
    eventually(lambda: live.streams.feeds == 0)
    live.open_gate()


def test_queries_and_mutations_are_streams_of_one(live: Live, ended: str) -> None:
    with streamed(live.api, "{ viewer { name } }") as stream:
        first, last = list(stream)
    assert first.data == {"data": {"viewer": {"name": "local"}}}
    assert last.name == "complete"
    stop = "mutation ($id: ID!) { stopExecution(input: {id: $id}) { __typename } }"
    with streamed(live.api, stop, {"id": ended}) as stream:
        assert next(stream).data["data"]["stopExecution"]["__typename"] == "NotAllowedError"
    with streamed(live.api, stop, {"id": ended}, "GET") as stream:  # a link could do that
        assert next(stream).data["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


def test_an_invalid_request_is_refused_with_a_status(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    accept = {"accept": "text/event-stream"}
    assert api.http.put(api.url, headers=accept).status_code == 405
    assert api.http.post(api.url, headers=accept, content=b"{").status_code == 415
    for body in (b"{", b"[]", b"null", b'{"query": 1}', b'{"query": "{ a }", "variables": []}', b"[" * 1000):
        answer = api.http.post(api.url, headers={**accept, "content-type": "application/json"}, content=body)
        assert answer.status_code == 400, body
        assert json.loads(answer.content)["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    assert api.http.get(api.url, headers=accept).status_code == 400
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_too_many_streams_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    silence = "subscription { silence { number } }"
    with streamed(api, silence):
        with pytest.raises(httpx.HTTPStatusError) as refused, streamed(api, silence):
            pass
        assert refused.value.response.status_code == 503
    asked = {"url": api.url, "params": {"query": "{ echo }"}, "headers": {"accept": "text/event-stream"}}
    eventually(lambda: api.http.get(**asked).status_code == 200)  # as soon as the server sees that the client has gone


def test_a_token_is_needed_and_must_stay_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0.1)
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'api.db'}", executor_workers=1)
    with living(settings, tmp_path) as live:
        execution_id = live.start("waits")
        secret = tokens.create(live.api.installation, "reader", Role.VIEWER)
        with pytest.raises(httpx.HTTPStatusError) as refused, streamed(live.api, EVENTS, {"id": execution_id}):
            pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
        with streamed(live.api, EVENTS, {"id": execution_id}, authorization=f"Bearer {secret}") as stream:
            next(stream)
            tokens.revoke(live.api.installation, "reader")
            assert {event.name for event in stream} <= {"next"}  # it ends, and does not complete
        live.open_gate()
