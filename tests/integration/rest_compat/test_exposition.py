"""The exposition, read by strict parsers, and the figures in it."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as classic

from flexiroaster.service import tallies
from tests.integration.rest_compat.client import INPUT, Rest

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


def test_the_classic_format_has_help_and_type_for_every_sample(rest: Rest) -> None:
    text = rest.get("/metrics", headers={"accept": CLASSIC}).text
    families = list(classic(text))
    assert families
    for family in families:
        assert family.name.startswith("flexiroaster_")
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}


def test_what_executions_came_to_is_counted_once(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "SETTLED", tallies.SETTLED * 0)
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
