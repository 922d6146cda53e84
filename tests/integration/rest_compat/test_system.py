"""Each row of the contract's table of health, metrics, insights and the callback; and what is in front of all calls."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from flexiroaster import __version__
from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.safety.anomaly.alarms import AlarmCount, Alarms
from flexiroaster.service.admin import audit, metrics
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.insights import Finding, resolve
from flexiroaster.store.safety.insights import record as record_insight
from tests.integration.rest_compat.client import INPUT, Rest, assert_error, assert_invalid, assert_refused, serving
from tests.proxy import free_port
from tests.waiting import eventually

SECRET = "the secret of callbacks"
CALLBACK = {
    "dag_id": "dag",
    "dag_run_id": "run",
    "task_id": "task",
    "execution_date": "2026-01-01T00:00:00+00:00",
    "callback_type": "success",
    "context": {},
}


@pytest.fixture(scope="module")
def guarded(rest_settings: Settings) -> Iterator[Rest]:
    """A server whose callbacks need a secret, and whose Redis is away."""
    given = {"airflow_callback_secret": SECRET, "redis_url": f"redis://127.0.0.1:{free_port()}/0"}
    with serving(rest_settings.model_copy(update=given), executor=False) as running:
        yield running


def test_root_says_where_things_are(rest: Rest) -> None:
    assert rest.json("/") == {
        "app": "FlexiRoaster",
        "version": __version__,
        "description": "Durable data pipelines for data teams, with live events, rollback "
        "and a safety engine that predicts failures.",
        "docs": "/api/docs",
        "health": "/health",
        "api_prefix": "/api",
    }


def test_health_names_every_service(rest: Rest) -> None:
    health = rest.json("/health")
    assert list(health) == ["status", "app", "version", "timestamp", "services"]
    assert (health["status"], health["app"], health["version"]) == ("healthy", "FlexiRoaster", __version__)
    assert datetime.fromisoformat(health["timestamp"]).tzinfo is not None
    assert list(health["services"]) == ["database", "redis", "executor"]
    for service in health["services"].values():
        assert list(service) == ["status", "latency_ms", "details"]
    assert health["services"]["database"]["latency_ms"] > 0
    assert health["services"]["executor"]["details"]["started"] is True
    assert rest.json("/health/live") == {"status": "ok"}
    assert rest.json("/health/ready") == {"status": "ready"}


def test_without_redis_it_is_healthy_in_fallback_mode(guarded: Rest) -> None:
    health = guarded.json("/health")
    assert health["status"] == "healthy"
    assert health["services"]["redis"]["status"] == "degraded"
    assert health["services"]["redis"]["details"]["fallback_mode"] is True


def test_a_failed_driver_is_not_ready_and_not_alive(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(rest.installation), "healthy", property(lambda _: False))
    live, ready = rest.get("/health/live"), rest.get("/health/ready")
    assert (live.status_code, live.json()) == (503, {"status": "failed"})
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
    assert rest.json("/health")["status"] == "degraded"


def test_metrics_count(rest: Rest) -> None:
    names = [
        "total_pipelines",
        "active_pipelines",
        "total_executions",
        "successful_executions",
        "failed_executions",
        "success_rate",
        "avg_duration",
        "recent_insights",
    ]
    before = rest.json("/metrics")
    assert list(before) == names
    pipeline_id = rest.pipeline()
    rest.run(pipeline_id)
    fails = {**INPUT, "id": "bad", "type": "transform", "config": {"operation": "sql", "query": "select x"}}
    bad = rest.start(rest.pipeline(INPUT, {**fails, "dependencies": ["load"], "max_retries": 0}))
    rest.reaches(bad, "failed")
    rest.post(f"/api/pipelines/{pipeline_id}/deactivate")
    after = rest.json("/metrics")
    assert [after[name] - before[name] for name in names[:5]] == [2, 1, 2, 1, 1]
    assert 0 < after["success_rate"] < 100
    assert after["avg_duration"] > 0
    assert isinstance(after["recent_insights"], list)


INSIGHT = [
    "id",
    "pipeline_id",
    "execution_id",
    "stage_id",
    "insight_type",
    "severity",
    "title",
    "message",
    "recommendation",
    "confidence",
    "risk_score",
    "factors",
    "explanation",
    "action_taken",
    "is_resolved",
    "created_at",
]


def test_insights_are_a_list(rest: Rest) -> None:
    finding = Finding("cause", "high_risk", "high", "It may fail", "m", 0.9, pipeline_id="p", execution_id="e")
    other = Finding("other cause", "high_risk", "low", "t", "m", 0.5, pipeline_id="q")
    with rest.installation.database.write() as connection:
        record_insight(connection, finding, utc_now())
        record_insight(connection, other, utc_now())
        resolve(connection, ["other cause"], utc_now())
    everything = rest.json("/insights")
    assert list(everything) == ["insights", "total", "false_alarms"]
    assert [each["pipeline_id"] for each in everything["insights"]] == ["q", "p"]
    newest = everything["insights"][0]
    assert list(newest) == INSIGHT
    assert (newest["severity"], newest["confidence"], newest["is_resolved"]) == ("low", 0.5, True)
    query = {"pipeline_id": "p", "execution_id": "e", "unresolved_only": "true", "hours": 1, "limit": 5}
    assert rest.json("/insights", **query) == {
        "insights": everything["insights"][1:],
        "total": 1,
        "false_alarms": everything["false_alarms"],
    }
    assert rest.json("/insights", pipeline_id="none")["total"] == 0
    assert rest.json("/metrics")["recent_insights"] == everything["insights"]
    assert_invalid(rest.get("/insights?limit=0"), (["query", "limit"], "greater_than_equal"))


def test_insights_come_with_how_often_alarms_were_false(rest: Rest) -> None:
    counts = Alarms({"stage_late": AlarmCount(raised=4, false=1), "volume": AlarmCount()})
    with rest.installation.database.write() as connection:
        risk.save_states(connection, {(risk.ALARMS, ""): counts.to_json()})
    assert rest.json("/insights")["false_alarms"] == [
        {"insight_type": "stage_late", "raised": 4, "false_alarms": 1, "false_rate": 0.25},
        {"insight_type": "volume", "raised": 0, "false_alarms": 0, "false_rate": None},
    ]


def test_a_callback_is_recorded_with_its_execution(rest: Rest) -> None:
    execution_id = rest.run(rest.pipeline())
    told = {**CALLBACK, "callback_type": "retry", "context": {"execution_id": execution_id, "password": "hidden"}}
    answer = rest.post("/api/airflow/callback", told)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "success": True,
            "message": f"Callback recorded: retry for execution {execution_id}",
            "dag_id": "dag",
            "dag_run_id": "run",
        },
    )
    (entry,) = audit.listing(rest.installation, AuditFilter(subject=execution_id)).items
    assert (entry.action, entry.outcome, entry.arguments["callback_type"]) == ("airflowCallback", "ok", "retry")
    assert "hidden" not in str(entry.arguments)


@pytest.mark.parametrize("execution_id", [None, "exec-none", 5, "\0"])
def test_a_callback_without_an_execution_is_recorded_with_its_run(rest: Rest, execution_id: object) -> None:
    context = {"execution_id": execution_id}
    answer = rest.post("/api/airflow/callback", {**CALLBACK, "dag_run_id": str(context), "context": context})
    assert (answer.status_code, answer.json()["message"]) == (200, "Callback recorded: success")
    subject = f"dag/{context}".replace("\0", "\ufffd")
    assert len(audit.listing(rest.installation, AuditFilter(subject=subject)).items) == 1


def test_a_callback_is_checked(rest: Rest) -> None:
    assert_invalid(
        rest.post("/api/airflow/callback", {"dag_id": "d", "callback_type": "done"}),
        (["body", "dag_run_id"], "missing"),
        (["body", "callback_type"], "enum"),
    )


@pytest.mark.parametrize("given", [{}, {"x-airflow-secret": ""}, {"x-airflow-secret": "wrong"}])
def test_a_callback_needs_the_secret_where_there_is_one(guarded: Rest, given: dict[str, str]) -> None:
    answer = guarded.post("/api/airflow/callback", CALLBACK, headers=given)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid callback secret"})
    told = guarded.post("/api/airflow/callback", CALLBACK, headers={"x-airflow-secret": SECRET})
    assert told.status_code == 200


# --- what stands in front of all calls --------------------------------------------------------------------------------


def test_what_is_not_there(rest: Rest) -> None:
    assert_refused(rest.get("/api/nothing"), 404, "Not Found")
    assert_refused(rest.http.delete("/api/pipelines"), 405, "Method Not Allowed")
    assert rest.http.delete("/api/pipelines").headers["allow"] == "GET, POST"


def test_a_body_has_a_limit(rest: Rest) -> None:
    told = {"name": "x" * 1_100_000}
    assert_refused(rest.post("/api/pipelines", told), 413, "The body is larger than 1000000 bytes")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    unannounced = rest.http.post("/api/pipelines", content=chunks(), headers={"content-type": "application/json"})
    assert_refused(unannounced, 413, "The body is larger than 1000000 bytes")


def test_an_unexpected_failure_is_masked_and_logged_once(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_installation: object) -> None:
        raise RuntimeError("what nobody expected")

    monkeypatch.setattr(metrics, "read", broken)
    answer = rest.get("/metrics", headers={"x-request-id": "mine"})
    detail = assert_error(answer, 500)
    assert answer.json()["error"] == "Internal server error"
    assert answer.headers["x-request-id"] == "mine"
    assert "what nobody expected" not in answer.text
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.error_id in detail
    assert line.request_id == "mine"
    assert "what nobody expected" in caplog.text


def test_a_database_that_is_away_is_said_so_and_not_where_it_is(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_installation: object) -> None:
        raise StoreError("cannot reach the database: host db.internal")

    monkeypatch.setattr(metrics, "read", away)
    answer = rest.get("/metrics")
    assert assert_error(answer, 503) == "The database cannot be reached"
    assert answer.json()["error"] == "Service unavailable"


def test_with_debug_the_traceback_is_told(rest_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_installation: object) -> None:
        raise RuntimeError("what nobody expected")

    monkeypatch.setattr(metrics, "read", broken)
    with serving(rest_settings.model_copy(update={"debug": True}), executor=False) as debugging:
        answer = debugging.get("/metrics")
    assert answer.status_code == 500
    assert "RuntimeError: what nobody expected" in answer.json()["detail"]


def test_requests_have_ids_in_answers_and_in_the_log(rest: Rest, caplog: pytest.LogCaptureFixture) -> None:

    def lines() -> list[logging.LogRecord]:
        found = [record for record in caplog.records if record.name == "flexiroaster.access"]
        return [record for record in found if "/api/pipelines" in record.getMessage()]  # not of the test before

    with caplog.at_level(logging.INFO, "flexiroaster.access"):
        given = rest.get("/api/pipelines?cursor=", headers={"x-request-id": "from-the-client"})
        made = rest.get("/api/pipelines", headers={"x-request-id": "not an id!"})
        eventually(lambda: len(lines()) == 2)  # a line is written after the answer has been sent
    assert given.headers["x-request-id"] == "from-the-client"
    assert made.headers["x-request-id"] != "not an id!"
    first, second = lines()
    assert [first.request_id, second.request_id] == ["from-the-client", made.headers["x-request-id"]]
    assert [first.getMessage(), second.getMessage()] == ["GET /api/pipelines 200"] * 2
    assert (first.viewer, first.status) == ("local", 200)
    assert first.milliseconds > 0


def test_answers_are_compressed_and_not_kept(rest: Rest) -> None:
    rest.pipeline(description="x" * 2000)
    answer = rest.get("/api/pipelines")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in rest.get("/api/pipelines", headers={"accept-encoding": "identity"}).headers


def test_only_pages_of_named_origins_may_call(rest: Rest) -> None:
    origin = "https://dashboard.example"
    allowed = rest.get("/api/pipelines", headers={"origin": origin})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, origin)
    preflight = rest.http.options(
        "/api/pipelines",
        headers={
            "origin": origin,
            "access-control-request-method": "PUT",
            "access-control-request-headers": "authorization, idempotency-key, if-none-match",
        },
    )
    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    refused = rest.get("/api/pipelines", headers={"origin": "https://evil.example"})
    assert_refused(refused, 403, "Pages of this origin may not send requests; see CORS_ORIGINS")


def test_graphql_answers_beside_it(rest: Rest) -> None:
    answer = rest.post("/graphql", {"query": "{ __typename }"})
    assert answer.json() == {"data": {"__typename": "Query"}}
    assert "errors" in rest.post("/graphql", {"query": "{"}).json()


def test_another_prefix(rest_settings: Settings) -> None:
    with serving(rest_settings.model_copy(update={"api_prefix": "/v1/flexi"}), executor=False) as elsewhere:
        assert elsewhere.json("/")["api_prefix"] == "/v1/flexi"
        assert elsewhere.get("/v1/flexi/pipelines").status_code == 200
        assert elsewhere.get("/api/pipelines").status_code == 404
        assert "/v1/flexi/pipelines" in elsewhere.json("/v1/flexi/openapi.json")["paths"]
        assert 'data-document="/v1/flexi/openapi.json"' in elsewhere.get("/v1/flexi/docs").text
