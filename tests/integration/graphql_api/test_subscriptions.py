"""Subscriptions over a real socket: history, then live, each event once and in order, from any cursor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from flexiroaster.service.executions import events, executions
from flexiroaster.web import streams
from graphql_api import operations
from tests.integration.graphql_api.following import numbers, opened, streamed
from tests.integration.graphql_api.live import EVENTS, Live, living
from tests.waiting import eventually

LOGS = """
subscription ($id: ID!, $after: String, $level: Level) {
  logs(executionId: $id, after: $after, level: $level) { events { seq level message } cursor caughtUp }
}
"""
LIST = """
subscription ($filter: ExecutionFilter, $after: String) {
  executions(filter: $filter, after: $after) { execution { executionId status pipelineName } cursor }
}
"""
FIRST = "{ executions(first: 1) { edges { node { executionId } } } }"


@pytest.fixture
def live(settings: Settings, tmp_path: Path) -> Iterator[Live]:
    with living(settings, tmp_path) as running:
        yield running
        running.open_gate()


def ended(live: Live, execution_id: str) -> None:
    executions.wait(live.api.installation, execution_id, 60)


def test_history_then_live_until_the_end(live: Live) -> None:
    execution_id = live.start("nothing", "waits", "nothing")
    with live.socket() as socket:
        batches, waits = [], False
        for batch in socket.batches(execution_id):
            batches.append(batch)
            waits = waits or any("waiting" in event["message"] for event in batch["events"])
            if waits and batch["caughtUp"]:
                live.open_gate()
    found = numbers(batches)
    assert found == list(range(1, len(found) + 1))
    types = [event["type"] for batch in batches for event in batch["events"]]
    assert types[0] == "EXECUTION_CREATED"
    assert types[-1] == "EXECUTION_COMPLETED"
    caught_up = [batch["caughtUp"] for batch in batches]
    assert caught_up == sorted(caught_up)  # once it has caught up it stays so
    assert batches[-1]["execution"] == {"status": "COMPLETED", "lastSeq": found[-1]}
    assert all(batch["execution"]["lastSeq"] >= batch["events"][-1]["seq"] for batch in batches)


def test_every_cursor_continues_exactly(live: Live) -> None:
    """This includes cursors in the middle of a batch, which another process may have issued."""
    live.open_gate()
    execution_id = live.start(*["nothing"] * 5)
    ended(live, execution_id)
    with live.socket() as socket:
        everything = numbers(list(socket.batches(execution_id)))
        page = live.api.data(
            "query ($id: ID!) { execution(id: $id) { events(first: 500) { edges { cursor node { seq } } } } }",
            {"id": execution_id},
        )["execution"]["events"]["edges"]
        assert [edge["node"]["seq"] for edge in page] == everything
        for edge in page:
            rest = list(socket.batches(execution_id, edge["cursor"]))
            assert numbers(rest) == everything[edge["node"]["seq"] :]
            assert rest[-1]["caughtUp"]
    assert rest[0]["events"] == []  # behind the last one there is only the news that it has caught up


def test_a_subscription_that_cannot_begin_is_a_typed_error(live: Live) -> None:
    live.open_gate()
    execution_id, other = live.start("nothing"), live.start(*["nothing"] * 20)
    ended(live, execution_id)
    ended(live, other)
    with live.socket() as socket:
        cases = [
            ({"id": "absent"}, "not_found"),
            ({"id": execution_id, "after": "garbage"}, "input.invalid"),
            ({"id": execution_id, "after": "WyJzZXEiLC0xXQ"}, "input.invalid"),
            ({"id": execution_id, "after": list(socket.batches(other))[-1]["cursor"]}, "input.invalid"),
            ({}, "BAD_USER_INPUT"),
        ]
        for variables, code in cases:
            errors = socket.errors(EVENTS, **variables)
            assert [error["extensions"]["code"] for error in errors] == [code], variables
        assert socket.errors(LIST, after="garbage")[0]["extensions"]["code"] == "input.invalid"
        assert socket.errors("subscription { nothing }")[0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    eventually(lambda: live.streams.feeds == 0)


def test_requested_fields_of_the_execution_are_read(live: Live) -> None:
    """Large columns are not read with each batch, only on request."""
    live.open_gate()
    execution_id = live.start("fails")
    ended(live, execution_id)
    query = (
        "subscription ($id: ID!) { executionEvents(executionId: $id) { execution { variables error { message } } } }"
    )
    with live.socket() as socket:
        last = list(socket.results("1", query, id=execution_id))[-1]["executionEvents"]["execution"]
    assert "the reason" in last["error"]["message"]
    assert last["variables"] == {}


def test_a_stream_continues_past_the_former_end_after_a_retry(live: Live) -> None:
    execution_id = live.start("nothing", "fails")
    ended(live, execution_id)
    with live.socket() as socket:
        before = list(socket.batches(execution_id))
        assert before[-1]["execution"]["status"] == "FAILED"
        answer = live.api.data(
            "mutation ($id: ID!) { retryExecution(input: {id: $id}) { __typename } }", {"id": execution_id}
        )
        assert answer["retryExecution"]["__typename"] == "CommandAccepted", answer
        eventually(lambda: executions.get(live.api.installation, execution_id).last_seq > numbers(before)[-1])
        after = list(socket.batches(execution_id, before[-1]["cursor"]))
        assert numbers(before) + numbers(after) == numbers(list(socket.batches(execution_id)))
    assert after[-1]["execution"]["status"] == "FAILED"


def test_many_subscribers_share_one_reader_and_leave_nothing_behind(live: Live) -> None:
    execution_id = live.start("nothing", "waits", "nothing")

    def follow(_: int) -> list[int]:
        with live.socket() as socket:
            return numbers(list(socket.batches(execution_id)))

    with ThreadPoolExecutor(20) as clients:
        followed = [clients.submit(follow, n) for n in range(20)]
        eventually(lambda: live.streams.feeds == 1)
        live.open_gate()
        found = [each.result() for each in followed]
    assert found == [list(range(1, len(found[0]) + 1))] * 20
    eventually(lambda: live.streams.feeds == 0)


def test_a_client_can_complete_a_subscription_and_reuse_its_id(live: Live) -> None:
    execution_id = live.start("waits")
    with live.socket() as socket:
        for _ in range(3):
            socket.subscribe("1", EVENTS, id=execution_id)
            assert socket.receive()["type"] == "next"
            eventually(lambda: live.streams.feeds == 1)  # the payload may be one of the round before
            socket.send("complete", "1")
            eventually(lambda: live.streams.feeds == 0)


def test_the_number_of_subscriptions_is_bounded(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_SUBSCRIPTIONS", 1)
    execution_id = live.start("waits")
    with live.socket() as socket, live.socket() as other:
        next(socket.batches(execution_id))
        assert other.errors(EVENTS, id=execution_id)[0]["extensions"]["code"] == "OVERLOADED"
        live.open_gate()
        while socket.receive()["type"] != "complete":
            pass
        assert numbers(list(other.batches(execution_id)))


def test_logs_are_the_events_of_a_level(live: Live) -> None:
    live.open_gate()
    execution_id = live.start("prints_in_every_way", "fails")
    ended(live, execution_id)
    stored = executions.events(live.api.installation, execution_id)
    with live.socket() as socket:
        for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
            batches = [data["logs"] for data in socket.results("1", LOGS, id=execution_id, level=level)]
            wanted = [event.seq for event in stored if event.level.name in _at_least(level)]
            assert numbers(batches) == wanted
            assert batches[-1]["caughtUp"]
            rest = [data["logs"] for data in socket.results("1", LOGS, id=execution_id, after=batches[0]["cursor"])]
            assert numbers(rest) == []  # all fit into one batch


def _at_least(level: str) -> list[str]:
    levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    return levels[levels.index(level) :]


def test_changes_of_executions_are_delivered(live: Live) -> None:
    first = live.start("waits", name="one")
    with live.socket() as socket, live.socket() as other:
        changes = (data["executions"] for data in socket.results("1", LIST, filter={}))
        failed = (data["executions"] for data in other.results("1", LIST, filter={"statuses": ["FAILED"]}))
        assert next(changes)["execution"]["executionId"] == first  # what has not ended comes first
        second = live.start("fails", name="two")
        last: dict[str, str] = {}
        cursor = ""
        while last.get(second) != "FAILED":
            change = next(changes)
            last[change["execution"]["executionId"]] = change["execution"]["status"]
        cursor = change["cursor"]
        assert next(failed)["execution"] == {"executionId": second, "status": "FAILED", "pipelineName": "two"}
        live.open_gate()
        while last.get(first) != "COMPLETED":
            change = next(changes)
            last[change["execution"]["executionId"]] = change["execution"]["status"]
    with live.socket() as again:  # what has ended while nobody listened
        since = (data["executions"] for data in again.results("1", LIST, after=cursor))
        told = {}
        while told.get(first) != "COMPLETED":
            execution = next(since)["execution"]
            told[execution["executionId"]] = execution["status"]
    eventually(lambda: live.streams.feeds == 0)


def test_queries_and_mutations_over_the_socket(live: Live) -> None:
    with live.socket() as socket:
        assert list(socket.results("1", FIRST)) == [{"executions": {"edges": []}}]
        execution_id = live.start("waits")
        (answer,) = socket.results(
            "2", "mutation ($id: ID!) { stopExecution(input: {id: $id}) { __typename } }", id=execution_id
        )
        assert answer["stopExecution"]["__typename"] == "CommandAccepted"
        ended(live, execution_id)
        (found,) = socket.results("3", FIRST)
        assert found["executions"]["edges"] == [{"node": {"executionId": execution_id}}]


def test_an_execution_that_is_deleted_ends_its_stream(live: Live) -> None:
    execution_id = live.start("waits")
    with live.socket() as socket:
        socket.subscribe("1", EVENTS, id=execution_id)
        assert socket.receive()["type"] == "next"
        _delete(live, execution_id)
        while (message := socket.receive())["type"] == "next":
            pass
    assert message["type"] == "error"
    assert message["payload"][0]["extensions"]["code"] == "not_found"


def _delete(live: Live, execution_id: str) -> None:
    from sqlalchemy import text

    with live.api.installation.database.write() as connection:
        for table, column in (("events", "execution_id"), ("stage_runs", "execution_id"), ("executions", "id")):
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), {"id": execution_id})


def test_a_viewer_may_subscribe_and_a_client_without_a_token_may_not(live: Live) -> None:
    live.open_gate()
    execution_id = live.start("nothing")
    ended(live, execution_id)
    secret = tokens.create(live.api.installation, "reader", Role.VIEWER)
    with live.socket({"Authorization": f"Bearer {secret}"}) as socket:
        assert numbers(list(socket.batches(execution_id)))
        errors = socket.errors("mutation { stopExecution(input: {id: 1}) { __typename } }")
        assert {error["extensions"]["code"] for error in errors} == {"FORBIDDEN"}
    for payload in ({}, {"authorization": "Bearer frt_unknown"}, {"authorization": "Basic x"}):
        with opened(live.api, init=False) as nobody:
            nobody.send("connection_init", payload=payload)
            assert nobody.closed() == 4403


def test_a_database_outage_loses_no_event(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    execution_id = live.start("waits", "nothing")
    monkeypatch.setattr(streams, "RETRY_SECONDS", 0.05)
    refused = iter(range(5))
    since = events.since

    def away(*arguments: Any) -> events.Batch:
        if next(refused, None) is not None:
            raise StoreError("cannot reach the database")
        return since(*arguments)

    with live.socket() as socket:
        stream = socket.batches(execution_id)
        batches = [next(stream)]
        monkeypatch.setattr(events, "since", away)
        live.open_gate()
        batches += stream
    assert next(refused, None) is None  # it was asked, and asked again
    assert numbers(batches) == [event.seq for event in executions.events(live.api.installation, execution_id)]


def test_a_stopping_server_closes_its_streams_so_that_clients_reconnect(live: Live) -> None:
    execution_id = live.start("waits")
    with live.socket() as socket, streamed(live.api, EVENTS, {"id": execution_id}) as stream:
        assert any(batch["caughtUp"] for batch in socket.batches(execution_id))
        next(stream)
        live.api.server.should_exit = True
        assert socket.closed() == 1012
        assert [event.name for event in stream if event.name != "next"] == []  # without `complete`
