"""Each row of the contract's table of executions: status, shape, message."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexiroaster.errors import BlockedError
from flexiroaster.service.admin import audit
from flexiroaster.service.admin.audit import AuditFilter
from flexiroaster.service.executions import executions
from tests.integration.rest_compat.client import INPUT, Rest, assert_error, assert_invalid, assert_refused, waiting
from tests.waiting import eventually

STARTED = ["success", "execution_id", "status", "error", "risk_assessment", "message"]
SUMMARY = [
    "id",
    "pipeline_id",
    "pipeline_name",
    "revision",
    "status",
    "total_stages",
    "completed_stages",
    "progress",
    "risk_score",
    "triggered_by",
    "created_at",
    "started_at",
    "completed_at",
    "duration",
    "error",
]
DETAIL = [*SUMMARY, "stage_executions", "current_stage", "variables", "pause_deadline"]
STAGE = [
    "stage_id",
    "stage_name",
    "status",
    "started_at",
    "completed_at",
    "duration",
    "retry_count",
    "output",
    "error",
    "is_anomaly",
]
FAILS = {
    "id": "fails",
    "type": "transform",
    "config": {"operation": "filter", "where": "n > 'text'"},
    "dependencies": ["load"],
    "max_retries": 0,
}


def started(answer: httpx.Response) -> str:
    """An accepted start; the execution's id."""
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert list(body) == STARTED
    assert (body["success"], body["status"], body["error"]) == (True, "accepted", None)
    assert body["message"] == f"Execution started: {body['execution_id']}"
    return str(body["execution_id"])


def test_both_calls_start_an_execution(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    plain = started(rest.post("/api/executions", {"pipeline_id": pipeline_id}))
    named = started(
        rest.post("/api/executions", {"pipeline_id": pipeline_id, "variables": {"a": 1}, "triggered_by": "cron"})
    )
    executed = started(rest.post(f"/api/executions/{pipeline_id}/execute?triggered_by=shell"))
    seen = {}
    for execution_id in (plain, named, executed):
        rest.reaches(execution_id, "completed")
        detail = rest.json(f"/api/executions/{execution_id}")
        seen[execution_id] = (detail["triggered_by"], detail["variables"])
    assert seen == {plain: ("api", {}), named: ("cron", {"a": 1}), executed: ("shell", {})}


BODIES: list[tuple[Any, str, dict[str, Any]]] = [
    ({"triggered_by": "airflow", "variables": {"day": 1}}, "airflow", {"day": 1}),
    ({"triggered_by": "airflow"}, "airflow", {}),
    ({"variables": {"day": 1}}, "query", {"day": 1}),
    ({"variables": None}, "query", {}),
    ({"day": 1, "variables": {"x": 1}}, "query", {"day": 1, "variables": {"x": 1}}),
    ({"variables": 5}, "query", {"variables": 5}),
    ({"day": 1}, "query", {"day": 1}),
    ({}, "query", {}),
    (None, "query", {}),
]


@pytest.mark.parametrize(("body", "by", "variables"), BODIES, ids=[str(body) for body, *_ in BODIES])
def test_execute_takes_both_bodies_and_none(rest: Rest, body: object, by: str, variables: dict[str, Any]) -> None:
    execution_id = started(rest.post(f"/api/executions/{rest.pipeline()}/execute?triggered_by=query", body))
    detail = rest.json(f"/api/executions/{execution_id}")
    assert (detail["triggered_by"], detail["variables"]) == (by, variables)
    rest.reaches(execution_id, "completed")


RISK = ["risk_score", "risk_level", "should_block", "factors", "recommendations", "explanation"]
FACTOR = ["name", "value", "score", "weight", "description", "contribution"]


def test_a_start_tells_how_likely_it_is_to_fail(rest: Rest) -> None:
    answer = rest.post(f"/api/executions/{rest.pipeline()}/execute").json()
    said = answer["risk_assessment"]
    assert list(said) == RISK
    assert said["should_block"] is False
    assert len(said["factors"]) == 6
    for factor in said["factors"]:
        assert list(factor) == FACTOR
        assert factor["contribution"] == pytest.approx(factor["weight"] * factor["score"])
    assert said["risk_score"] == pytest.approx(sum(factor["contribution"] for factor in said["factors"]))
    assert all(isinstance(text, str) and text for text in (said["explanation"], *said["recommendations"]))
    rest.reaches(answer["execution_id"], "completed")


def test_a_run_is_blocked_where_its_risk_is_high(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_arguments: object, **_options: object) -> str:
        raise BlockedError("Blocked: it fails too often")

    monkeypatch.setattr(executions, "start", blocked)
    answer = rest.post(f"/api/executions/{rest.pipeline()}/execute")
    assert_refused(answer, 403, "Blocked: it fails too often")


def test_execute_refuses_a_body_that_is_no_object(rest: Rest) -> None:
    assert_invalid(rest.post(f"/api/executions/{rest.pipeline()}/execute", [1]), (["body"], "dict_type"))


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        ({}, ["body", "pipeline_id"], "missing"),
        ({"pipeline_id": 5}, ["body", "pipeline_id"], "string_type"),
        ({"pipeline_id": "p", "variables": []}, ["body", "variables"], "dict_type"),
        ({"pipeline_id": "p", "triggered_by": ""}, ["body", "triggered_by"], "string_too_short"),
        ({"pipeline_id": "p", "triggered_by": "x" * 256}, ["body", "triggered_by"], "string_too_long"),
        ({"pipeline_id": "p\0"}, ["body", "pipeline_id"], "string_pattern_mismatch"),
    ],
)
def test_a_start_is_checked(rest: Rest, body: dict[str, Any], loc: list[str | int], kind: str) -> None:
    assert_invalid(rest.post("/api/executions", body), (loc, kind))


def test_a_variable_without_a_value_is_named(rest: Rest) -> None:
    pipeline_id = rest.pipeline({**INPUT, "config": {"source": "api", "data": "${rows}"}})
    answer = rest.post(f"/api/executions/{pipeline_id}/execute")
    assert_invalid(answer, (["body", "stages", 0, "config"], "missing_variable"))


def test_an_unknown_pipeline_cannot_be_started(rest: Rest) -> None:
    assert_refused(rest.post("/api/executions", {"pipeline_id": "no"}), 404, "Pipeline not found: no")


def test_a_duplicate_run_conflicts(rest: Rest, tmp_path: Path) -> None:
    signal = tmp_path / "go"
    pipeline_id = rest.pipeline(waiting(signal), concurrency=1)
    execution_id = rest.start(pipeline_id)
    for again in (
        rest.post(f"/api/executions/{pipeline_id}/execute"),
        rest.post("/api/executions", {"pipeline_id": pipeline_id}),
    ):
        assert_refused(again, 409, f"Pipeline {pipeline_id} is running already: {execution_id}")
    signal.touch()
    rest.reaches(execution_id, "completed")


def test_the_same_key_gives_the_same_execution(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    headers = {"idempotency-key": f"key of {pipeline_id}"}
    path = f"/api/executions/{pipeline_id}/execute"
    first = started(rest.post(path, {"a": 1}, headers=headers))
    assert started(rest.post(path, {"a": 1}, headers=headers)) == first
    body = {"pipeline_id": pipeline_id, "variables": {"a": 1}}
    assert started(rest.post("/api/executions", body, headers=headers)) == first
    other = rest.post(path, {"a": 2}, headers=headers)
    assert_refused(other, 409, f"The idempotency key 'key of {pipeline_id}' was used for another request: {first}")
    assert rest.json("/api/executions", pipeline_id=pipeline_id)["total"] == 1
    for bad in ("", "x" * 256):
        assert assert_error(rest.post(path, headers={"idempotency-key": bad}), 422)[0]["loc"] == [
            "header",
            "idempotency-key",
        ]
    rest.reaches(first, "completed")


def test_the_detail_of_an_execution(rest: Rest) -> None:
    execution_id = rest.run(rest.pipeline(name="shown"), json={"a": 1})
    detail = rest.json(f"/api/executions/{execution_id}")
    assert list(detail) == DETAIL
    facts = ["pipeline_name", "status", "total_stages", "completed_stages", "progress", "error", "current_stage"]
    assert [detail[name] for name in facts] == ["shown", "completed", 1, 1, 100.0, None, None]
    start, end = (datetime.fromisoformat(detail[name]) for name in ("started_at", "completed_at"))
    assert detail["duration"] == pytest.approx((end - start).total_seconds())
    (stage,) = detail["stage_executions"]
    assert list(stage) == STAGE
    facts = ["stage_id", "stage_name", "status", "retry_count", "error", "is_anomaly"]
    assert [stage[name] for name in facts] == ["load", "load", "completed", 0, None, False]
    assert stage["output"]["rows"] == 1


def test_an_error_is_one_line_of_text(rest: Rest) -> None:
    execution_id = rest.start(rest.pipeline(INPUT, FAILS))
    rest.reaches(execution_id, "failed")
    detail = rest.json(f"/api/executions/{execution_id}")
    assert isinstance(detail["error"], str)
    assert "fails" in detail["error"]
    assert detail["progress"] == 50.0
    assert [s["status"] for s in detail["stage_executions"]] == ["completed", "failed"]
    assert isinstance(detail["stage_executions"][1]["error"], str)


def test_the_list_is_filtered_and_paged(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    ids = [rest.run(pipeline_id) for _ in range(5)][::-1]
    listed = rest.json("/api/executions", pipeline_id=pipeline_id, limit=2)
    assert list(listed) == ["executions", "total", "cursor"]
    assert list(listed["executions"][0]) == SUMMARY
    assert ([each["id"] for each in listed["executions"]], listed["total"]) == (ids[:2], 5)
    following = rest.json("/api/executions", pipeline_id=pipeline_id, limit=2, cursor=listed["cursor"])
    assert [each["id"] for each in following["executions"]] == ids[2:4]
    skipped = rest.json("/api/executions", pipeline_id=pipeline_id, skip=4, limit=2)
    assert ([each["id"] for each in skipped["executions"]], skipped["cursor"]) == (ids[4:], None)
    assert rest.json("/api/executions", pipeline_id=pipeline_id, status="failed")["total"] == 0
    assert rest.json("/api/executions", pipeline_id=pipeline_id, status="completed")["total"] == 5
    # of one pipeline all are wanted, however old; otherwise those of the last hours
    assert rest.json("/api/executions", pipeline_id=pipeline_id, hours=1e-9)["total"] == 5
    assert rest.json("/api/executions", hours=1e-9)["total"] == 0
    assert rest.json("/api/executions", pipeline_id="", status="", limit=1000)["total"] >= 5


@pytest.mark.parametrize(
    ("query", "loc", "kind"),
    [
        ("status=done", ["query", "status"], "enum"),
        ("hours=0", ["query", "hours"], "greater_than"),
        ("hours=nan", ["query", "hours"], "finite_number"),
        ("hours=1e300", ["query", "hours"], "less_than_equal"),
        ("pipeline_id=%00", ["query", "pipeline_id"], "string_pattern_mismatch"),
    ],
)
def test_parameters_of_the_list_are_checked(rest: Rest, query: str, loc: list[str | int], kind: str) -> None:
    assert_invalid(rest.get(f"/api/executions?{query}"), (loc, kind))


def test_running_is_a_list_and_no_id(rest: Rest, tmp_path: Path) -> None:
    signal = tmp_path / "go"
    execution_id = rest.start(rest.pipeline(waiting(signal)))
    eventually(lambda: rest.status(execution_id) == "running", within=60)
    listed = rest.json("/api/executions/running")
    assert list(listed) == ["executions", "total", "cursor"]
    assert ([each["id"] for each in listed["executions"]], listed["total"]) == ([execution_id], 1)
    eventually(lambda: rest.json(f"/api/executions/{execution_id}")["current_stage"] == "wait")
    signal.touch()
    rest.reaches(execution_id, "completed")
    assert rest.json("/api/executions/running") == {"executions": [], "total": 0, "cursor": None}


UNKNOWN = [("GET", path) for path in ("", "/logs", "/events")] + [
    ("POST", path) for path in ("/stop", "/pause", "/resume")
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN, ids=[f"{m} {p}" for m, p in UNKNOWN])
def test_an_unknown_execution_is_404(rest: Rest, method: str, path: str) -> None:
    answer = rest.http.request(method, f"/api/executions/exec-none{path}")
    assert_refused(answer, 404, "Execution not found: exec-none")


def test_pause_resume_and_stop(rest: Rest, tmp_path: Path) -> None:
    signal = tmp_path / "go"
    after = {**INPUT, "id": "after", "dependencies": ["wait"]}
    execution_id = rest.start(rest.pipeline(waiting(signal), after))
    rest.reaches(execution_id, "running")
    path = f"/api/executions/{execution_id}"
    assert_refused(rest.post(f"{path}/resume"), 400, "Cannot resume execution with status: running...")
    paused = rest.post(f"{path}/pause")
    assert (paused.status_code, paused.json()) == (
        200,
        {"success": True, "message": f"Pause requested: {execution_id}"},
    )
    signal.touch()
    rest.reaches(execution_id, "paused")
    assert_refused(rest.post(f"{path}/pause"), 400, "Cannot pause execution with status: paused...")
    resumed = rest.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["message"]) == (200, f"Resume requested: {execution_id}")
    rest.reaches(execution_id, "completed")
    for what in ("stop", "pause", "resume"):
        assert_refused(rest.post(f"{path}/{what}"), 400, f"Cannot {what} execution with status: completed...")


def test_stop_ends_what_runs_and_what_is_paused(rest: Rest, tmp_path: Path) -> None:
    execution_id = rest.start(rest.pipeline(waiting(tmp_path / "never")))
    rest.reaches(execution_id, "running")
    stopped = rest.post(f"/api/executions/{execution_id}/stop")
    assert (stopped.status_code, stopped.json()) == (
        200,
        {"success": True, "message": f"Stop requested: {execution_id}"},
    )
    rest.reaches(execution_id, "cancelled")
    assert_refused(
        rest.post(f"/api/executions/{execution_id}/stop"), 400, "Cannot stop execution with status: cancelled..."
    )


def test_logs_are_oldest_first_and_go_on_behind_the_last(rest: Rest) -> None:
    execution_id = rest.run(rest.pipeline({**INPUT, "config": {"source": "api"}}))
    path = f"/api/executions/{execution_id}/logs"
    logs = rest.json(path)
    assert list(logs) == ["logs", "total", "after"]
    assert [line["id"] for line in logs["logs"]] == list(range(1, logs["total"] + 1))
    assert list(logs["logs"][0]) == ["id", "level", "message", "stage_id", "timestamp", "metadata"]
    assert logs["logs"][0]["metadata"]["event"] == "execution.created"
    assert logs["logs"][-1]["metadata"]["event"] == "execution.completed"
    assert logs["after"] == logs["total"]
    some = rest.json(path, limit=2)
    assert ([line["id"] for line in some["logs"]], some["after"], some["total"]) == ([1, 2], 2, logs["total"])
    assert [line["id"] for line in rest.json(path, after=2)["logs"]] == list(range(3, logs["total"] + 1))
    end = rest.json(path, after=logs["after"])
    assert (end["logs"], end["after"]) == ([], logs["after"])
    warnings = rest.json(path, level="warning")
    assert warnings["total"] == len(warnings["logs"]) == 1  # an input without records: a warning, not a failure
    assert warnings["logs"][0]["level"] == "warning"
    assert_invalid(rest.get(f"{path}?level=loud"), (["query", "level"], "enum"))


def events_of(answer: httpx.Response) -> list[tuple[int, str, dict[str, Any]]]:
    """What a stream of server-sent events told: number, type, line."""
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_events_stream_live_until_the_end_and_go_on_where_they_were(rest: Rest, tmp_path: Path) -> None:
    signal = tmp_path / "go"
    execution_id = rest.start(rest.pipeline(waiting(signal)))
    path = f"/api/executions/{execution_id}/events"
    seen: list[str] = []

    def follow() -> None:
        with rest.http.stream("GET", path) as live:
            assert live.headers["content-type"] == "text/event-stream; charset=utf-8"
            seen.extend(live.iter_lines())

    follower = threading.Thread(target=follow)
    follower.start()
    rest.reaches(execution_id, "running")
    signal.touch()
    follower.join(timeout=60)
    assert not follower.is_alive()
    logs = rest.json(f"/api/executions/{execution_id}/logs")["logs"]
    assert [line for line in seen if line.startswith("id:")] == [f"id: {log['id']}" for log in logs]
    history = events_of(rest.get(path))
    assert [(number, data) for number, _, data in history] == [(log["id"], log) for log in logs]
    assert history[-1][1] == "execution.completed"
    assert [number for number, *_ in events_of(rest.get(f"{path}?after=2"))] == [log["id"] for log in logs[2:]]
    resumed = rest.get(f"{path}?after=1", headers={"last-event-id": "3"})
    assert [number for number, *_ in events_of(resumed)] == [log["id"] for log in logs[3:]]
    assert len(events_of(rest.get(f"{path}?after=", headers={"last-event-id": ""}))) == len(logs)
    assert_invalid(rest.get(f"{path}?after=999"), (["query", "after"], "value_error"))
    assert_invalid(rest.get(f"{path}?after=-1"), (["query", "after"], "greater_than_equal"))


def test_every_change_is_in_the_audit_log(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    execution_id = rest.run(pipeline_id, headers={"x-request-id": "request-of-the-test"})
    rest.post(f"/api/executions/{execution_id}/stop")
    rest.http.delete(f"/api/pipelines/{pipeline_id}")
    of_pipeline = audit.listing(rest.installation, AuditFilter(subject=pipeline_id)).items
    of_execution = audit.listing(rest.installation, AuditFilter(subject=execution_id)).items
    assert [(row.action, row.outcome) for row in of_pipeline] == [("deletePipeline", "ok"), ("startExecution", "ok")]
    assert [(row.action, row.outcome, row.viewer) for row in of_execution] == [
        ("stopExecution", "not_allowed", "local")
    ]
    assert of_pipeline[1].request_id == "request-of-the-test"
