"""The exposition, read by strict parsers, and the figures in it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic
from websockets.sync.client import connect

from flexiroaster.service.admin import metrics
from flexiroaster.service.safety import risk
from tests.integration.rest_compat.client import INPUT, Rest, waiting
from tests.integration.rest_compat.exposition_lint import problems, series
from tests.waiting import eventually

CLASSIC = "text/plain; version=0.0.4"
OPEN = "application/openmetrics-text; version=1.0.0"
PROMETHEUS = f"{OPEN};q=0.5,{CLASSIC};q=0.3,*/*;q=0.2"


def figures(rest: Rest) -> dict[tuple[str, str], float]:
    """Every sample of the strict format: name and its labels -> value."""
    answer = rest.get("/metrics", headers={"accept": OPEN})
    assert answer.text.endswith("# EOF\n")
    return {
        (sample.name, "".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in open_metrics(answer.text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (CLASSIC, "text/plain; version=0.0.4"),
        ("text/plain", "text/plain; version=0.0.4"),
        (OPEN, "application/openmetrics-text; version=1.0.0"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("", "application/json"),
    ],
)
def test_the_client_says_what_it_takes(rest: Rest, accept: str, content_type: str) -> None:
    answer = rest.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)


def test_the_exposition_is_what_promtool_asks_for(rest: Rest) -> None:
    rest.run(rest.pipeline())
    text = rest.get("/metrics", headers={"accept": CLASSIC}).text
    assert len(list(series(text))) > 50
    assert problems(text) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("# HELP flexiroaster_a A.\n# TYPE flexiroaster_a counter\nflexiroaster_a 1\n", "does not end in _total"),
        ("# HELP flexiroaster_a_total A.\n# TYPE flexiroaster_a_total gauge\nflexiroaster_a_total 1\n", "no counter"),
        ("# HELP flexiroaster_a_ms A.\n# TYPE flexiroaster_a_ms gauge\nflexiroaster_a_ms 1\n", "base unit"),
        ("# TYPE flexiroaster_a gauge\nflexiroaster_a 1\n", "no help"),
        (
            "# HELP flexiroaster_a A.\n# TYPE flexiroaster_a gauge\nflexiroaster_a 1\nflexiroaster_a 2\n",
            "more than one",
        ),
        ('# HELP flexiroaster_a A.\n# TYPE flexiroaster_a gauge\nflexiroaster_a{pipeline_id="x"} 1\n', "not bounded"),
        (
            "# HELP flexiroaster_a A.\n# TYPE flexiroaster_a histogram\n"
            'flexiroaster_a_bucket{le="+Inf"} 1\nflexiroaster_a_count 2\nflexiroaster_a_sum 1\n',
            "do not add up",
        ),
    ],
)
def test_promtools_rules_find_what_is_wrong(wrong: str, told: str) -> None:
    assert any(told in problem for problem in problems(wrong)), problems(wrong)


def test_both_formats_tell_the_same_series(rest: Rest) -> None:
    strict = rest.get("/metrics", headers={"accept": OPEN}).text
    families = {family.name: family.type for family in open_metrics(strict)}
    text = rest.get("/metrics", headers={"accept": CLASSIC}).text
    assert families == {family.name: family.type for family in classic(text)}


def test_what_executions_came_to_is_counted_once(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SETTLE_TIME", metrics.SETTLE_TIME * 0)
    before = figures(rest)
    pipeline_id = rest.pipeline()
    for _ in range(3):
        rest.run(pipeline_id)
    bad = {"id": "bad", "type": "transform", "config": {"operation": "sql", "query": "select x"}, "max_retries": 0}
    rest.reaches(rest.start(rest.pipeline(INPUT, {**bad, "dependencies": ["load"]})), "failed")
    after = figures(rest)

    def grown(name: str, label: str) -> float:
        return after[name, label] - before.get((name, label), 0.0)

    assert grown("flexiroaster_executions_ended_total", "completed") == 3
    assert grown("flexiroaster_executions_ended_total", "failed") == 1
    assert grown("flexiroaster_stage_duration_seconds_count", "input.api") == 4
    assert grown("flexiroaster_stage_duration_seconds_count", "transform.sql") == 1
    assert grown("flexiroaster_stage_duration_seconds_bucket", "+Infinput.api") == 4
    assert grown("flexiroaster_stage_duration_seconds_sum", "input.api") > 0
    assert (
        figures(rest)["flexiroaster_executions_ended_total", "completed"]
        == after["flexiroaster_executions_ended_total", "completed"]
    )
    assert after["flexiroaster_up", "database"] == 1
    assert after["flexiroaster_latency_seconds", "database"] > 0
    assert after["flexiroaster_redis_fallback", ""] == 1
    assert after["flexiroaster_executions_live", "running"] == 0
    assert grown("flexiroaster_pipelines", "") == 2


def test_what_starts_were_given_is_told_by_level(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SETTLE_TIME", metrics.SETTLE_TIME * 0)
    before = figures(rest)
    failing = {"id": "bad", "type": "transform", "config": {"operation": "sql", "query": "select x"}, "max_retries": 0}
    pipeline_id = rest.pipeline(INPUT, {**failing, "dependencies": ["load"]})
    ids = []
    for _ in range(8):
        ids.append(rest.start(pipeline_id))
        rest.reaches(ids[-1], "failed")
        rest.installation.risk_state.catch_up()  # a start may be answered by what was known a moment ago
    said = [_said(rest, each) for each in ids]
    after = figures(rest)
    assert {level for level, _ in said} > {"high"}, "the levels of a pipeline that always fails rise"
    for level in ("low", "medium", "high"):
        own = [probability for given, probability in said if given == level]
        grown = {
            name: after[f"flexiroaster_start_risk_ratio_{name}", level]
            - before[f"flexiroaster_start_risk_ratio_{name}", level]
            for name in ("count", "sum")
        }
        assert grown == {"count": len(own), "sum": pytest.approx(sum(own))}
        under = sum(probability <= 0.7 for probability in own)
        bucket = ("flexiroaster_start_risk_ratio_bucket", f"0.7{level}")
        assert after[bucket] - before[bucket] == under


def test_decisions_are_counted_by_what_was_chosen_and_done(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SETTLE_TIME", metrics.SETTLE_TIME * 0)
    before = figures(rest)
    bad = {
        "id": "bad",
        "type": "transform",
        "config": {"operation": "sql", "query": "select x"},
        "dependencies": ["load"],
    }
    rest.reaches(rest.start(rest.pipeline(INPUT, bad)), "failed")
    shadow = {"policy": {"mode": "shadow", "pause": True}}
    rest.reaches(rest.start(rest.pipeline(INPUT, bad, config=shadow)), "failed")
    after = figures(rest)
    name = "flexiroaster_decisions_total"
    grown = {labels: after[name, labels] - before.get((name, labels), 0) for n, labels in after if n == name}
    assert {labels: number for labels, number in grown.items() if number} == {
        "terminateterminate": 1,
        "pauseterminate": 1,
    }


def _said(rest: Rest, execution_id: str) -> tuple[str, float]:
    found = risk.of_executions(rest.installation, [execution_id])[execution_id]
    return found.level, found.probability


def test_open_subscriptions_are_told_by_what_they_came_over(rest: Rest, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    execution_id = rest.start(rest.pipeline(waiting(gate)))
    query = "subscription ($id: ID!) { executionEvents(executionId: $id) { caughtUp } }"
    asked = {"query": query, "variables": {"id": execution_id}}

    def told() -> tuple[float, float, float]:
        now = figures(rest)
        names = ("flexiroaster_subscriptions", "websocket"), ("flexiroaster_subscriptions", "sse")
        return (now[names[0]], now[names[1]], now["flexiroaster_event_streams", ""])

    assert told() == (0, 0, 0)
    url, options = f"{rest.url.replace('http', 'ws')}/graphql", {"open_timeout": 60, "ping_interval": None}
    with connect(url, subprotocols=["graphql-transport-ws"], **options) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv())["type"] == "connection_ack"
        for number in ("1", "2"):
            socket.send(json.dumps({"id": number, "type": "subscribe", "payload": asked}))
            assert json.loads(socket.recv())["type"] == "next"
        accept = {"accept": "text/event-stream"}
        with (
            httpx.stream("POST", f"{rest.url}/graphql", json=asked, headers=accept, timeout=60) as stream,
            httpx.stream("GET", f"{rest.url}/api/executions/{execution_id}/events", timeout=60) as events,
        ):
            lines = stream.iter_lines(), events.iter_lines()  # kept: a reader that goes closes its stream
            assert all(next(each) for each in lines)
            assert told() == (2, 1, 1)
        socket.send(json.dumps({"id": "1", "type": "complete"}))
        eventually(lambda: told() == (1, 0, 0))
    eventually(lambda: told() == (0, 0, 0))
    gate.touch()
    rest.reaches(execution_id, "completed")
