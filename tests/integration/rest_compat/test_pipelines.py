"""The contract's table of pipelines, row by row: status, shape, message."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rest_compat.client import INPUT, Rest, assert_invalid, assert_refused, waiting

SUMMARY = [
    "id",
    "name",
    "description",
    "version",
    "is_active",
    "schedule",
    "stage_count",
    "revision",
    "created_at",
    "updated_at",
]
DETAIL = [*SUMMARY, "stages", "config", "variables", "timeout", "concurrency", "on_conflict"]
THREE = [
    {"id": "b", "type": "transform", "config": {"operation": "normalize"}, "dependencies": ["a"]},
    {"id": "a", "name": "Load", "type": "input", "config": {"source": "api"}},
    {"id": "c", "type": "output", "config": {"destination": "database"}, "dependencies": ["b"]},
]


def test_create_returns_the_detail(rest: Rest) -> None:
    answer = rest.post("/api/pipelines", {"name": "n", "description": "d", "schedule": "0 5 * * *", "stages": THREE})
    assert answer.status_code == 201
    body = answer.json()
    assert list(body) == DETAIL
    assert re.fullmatch(r"pipeline-[0-9a-f]{12}", body["id"])
    facts = ["name", "description", "version", "is_active", "schedule", "stage_count", "revision", "updated_at"]
    assert [body[name] for name in facts] == ["n", "d", "1.0.0", True, "0 5 * * *", 3, 1, None]
    assert datetime.fromisoformat(body["created_at"]).utcoffset() == UTC.utcoffset(None)
    assert [(stage["id"], stage["order"]) for stage in body["stages"]] == [("b", 1), ("a", 0), ("c", 2)]
    assert body["stages"][1] == {
        "id": "a",
        "name": "Load",
        "type": "input",
        "description": None,
        "config": {"source": "api"},
        "dependencies": [],
        "timeout": 120,
        "max_retries": 3,
        "retry_delay": 0.01,
        "retry_backoff": 2.0,
        "max_retry_delay": 300.0,
        "retry_on": ["transient", "timeout", "crash", "unknown"],
        "memory_limit": None,
        "is_critical": True,
        "order": 0,
    }
    assert isinstance(body["stages"][1]["timeout"], int)


BAD: list[tuple[dict[str, Any], list[str | int], str]] = [
    ({"stages": [INPUT]}, ["body", "name"], "missing"),
    ({"name": "", "stages": [INPUT]}, ["body", "name"], "string_too_short"),
    ({"name": "x" * 256, "stages": [INPUT]}, ["body", "name"], "string_too_long"),
    ({"name": "n"}, ["body", "stages"], "missing"),
    ({"name": "n", "stages": [{**INPUT, "type": "sink"}]}, ["body", "stages", 0, "type"], "enum"),
    (
        {"name": "n", "stages": [{**INPUT, "dependencies": ["lost"]}]},
        ["body", "stages", 0, "dependencies", 0],
        "unknown_dependency",
    ),
    ({"name": "n", "stages": [INPUT, INPUT]}, ["body", "stages", 1, "id"], "duplicate_id"),
    (
        {"name": "n", "stages": [{"id": "t", "type": "transform", "config": {"operation": "juggle"}}]},
        ["body", "stages", 0, "config", "operation"],
        "unknown_operator",
    ),
    ({"name": "n", "stages": [{**INPUT, "config": {"source": "api", "dat": []}}]},
     ["body", "stages", 0, "config", "dat"], "extra_forbidden"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "loc", "kind"), BAD, ids=[f"{kind}-{loc[-1]}" for _, loc, kind in BAD])
def test_an_invalid_body_is_refused_with_the_location(
    rest: Rest, body: dict[str, Any], loc: list[str | int], kind: str
) -> None:
    assert_invalid(rest.post("/api/pipelines", body), (loc, kind))


def test_a_cycle_is_named(rest: Rest) -> None:
    stages = [{**INPUT, "id": "x", "dependencies": ["y"]}, {**INPUT, "id": "y", "dependencies": ["x"]}]
    answer = rest.post("/api/pipelines", {"name": "n", "stages": stages})
    messages = [item["msg"] for item in answer.json()["detail"] if item["type"] == "cycle"]
    assert answer.status_code == 422
    assert messages == ["dependency cycle: x -> y -> x"]


def test_all_problems_are_reported_at_once(rest: Rest) -> None:
    stages = [{**INPUT, "dependencies": ["lost"]}, {**INPUT, "timeout": -1}]
    told = rest.post("/api/pipelines", {"stages": stages}).json()["detail"]
    places = [item["loc"] for item in told]
    assert ["body", "name"] in places
    assert ["body", "stages", 0, "dependencies", 0] in places
    assert ["body", "stages", 1, "id"] in places
    assert ["body", "stages", 1, "timeout"] in places


@pytest.mark.parametrize(
    ("content", "loc", "kind"),
    [
        (b"[]", ["body"], "dict_type"),
        (b'"text"', ["body"], "dict_type"),
        (b"1", ["body"], "dict_type"),
        (b"null", ["body"], "dict_type"),
        (b"", ["body"], "missing"),
        (b"{", ["body", 1], "json_invalid"),
    ],
)
def test_a_body_that_is_not_an_object_is_refused(rest: Rest, content: bytes, loc: list[str | int], kind: str) -> None:
    answer = rest.http.post("/api/pipelines", content=content, headers={"content-type": "application/json"})
    assert_invalid(answer, (loc, kind))


def test_a_body_that_is_deeply_nested_or_not_utf8_is_refused(rest: Rest) -> None:
    for content in (b"[" * 100_000, b'{"name": "\xff"}'):
        answer = rest.http.post("/api/pipelines", content=content, headers={"content-type": "application/json"})
        assert_refused(answer, 400, "There was an error parsing the body")


def test_an_id_that_is_taken_conflicts(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    answer = rest.post("/api/pipelines", {"id": pipeline_id, "name": "n", "stages": [INPUT]})
    assert_refused(answer, 409, f"Pipeline already exists: {pipeline_id}")


def test_the_list_counts_all_and_pages_by_number_or_cursor(rest: Rest) -> None:
    before = rest.json("/api/pipelines")["total"]
    ids = [rest.pipeline(name=f"listed {i}") for i in range(5)]
    rest.post(f"/api/pipelines/{ids[0]}/deactivate")
    listed = rest.json("/api/pipelines", skip=before, limit=2)
    assert list(listed) == ["pipelines", "total", "cursor"]
    assert list(listed["pipelines"][0]) == SUMMARY
    assert [each["id"] for each in listed["pipelines"]] == ids[:2]
    assert listed["total"] == before + 5
    rest_of_them = rest.json("/api/pipelines", limit=2, cursor=listed["cursor"])
    assert [each["id"] for each in rest_of_them["pipelines"]] == ids[2:4]
    assert rest_of_them["total"] == before + 5
    last = rest.json("/api/pipelines", limit=2, cursor=rest_of_them["cursor"])
    assert [each["id"] for each in last["pipelines"]] == ids[4:]
    assert last["cursor"] is None
    assert rest.json("/api/pipelines", skip=10_000)["pipelines"] == []
    inactive = rest.json("/api/pipelines", is_active="false", limit=1000)["pipelines"]
    assert ids[0] in {each["id"] for each in inactive}
    assert not any(each["is_active"] for each in inactive)
    assert ids[0] not in {p["id"] for p in rest.json("/api/pipelines", is_active="true", limit=1000)["pipelines"]}
    assert rest.json("/api/pipelines", is_active="", limit=1000)["total"] == before + 5


@pytest.mark.parametrize(
    ("query", "loc", "kind"),
    [
        ("skip=-1", ["query", "skip"], "greater_than_equal"),
        ("skip=99999999999999999999", ["query", "skip"], "less_than_equal"),
        ("limit=0", ["query", "limit"], "greater_than_equal"),
        ("limit=1001", ["query", "limit"], "less_than_equal"),
        ("limit=x", ["query", "limit"], "int_parsing"),
        ("is_active=perhaps", ["query", "is_active"], "bool_parsing"),
        ("cursor=nonsense", ["query", "cursor"], "value_error"),
        ("cursor=a%00b", ["query", "cursor"], "string_pattern_mismatch"),
    ],
)
def test_parameters_of_lists_are_checked(rest: Rest, query: str, loc: list[str | int], kind: str) -> None:
    assert_invalid(rest.get(f"/api/pipelines?{query}"), (loc, kind))


def test_a_read_pipeline_is_what_was_created(rest: Rest) -> None:
    created = rest.post("/api/pipelines", {"name": "n", "stages": THREE}).json()
    assert rest.json(f"/api/pipelines/{created['id']}") == created


UNKNOWN = [
    ("GET", "/api/pipelines/pipeline-none"),
    ("PUT", "/api/pipelines/pipeline-none"),
    ("DELETE", "/api/pipelines/pipeline-none"),
    ("POST", "/api/pipelines/pipeline-none/activate"),
    ("POST", "/api/pipelines/pipeline-none/deactivate"),
    ("POST", "/api/executions/pipeline-none/execute"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN, ids=[f"{m} {p}" for m, p in UNKNOWN])
def test_an_unknown_pipeline_is_404(rest: Rest, method: str, path: str) -> None:
    body = {"name": "n"} if method == "PUT" else None
    assert_refused(rest.http.request(method, path, json=body), 404, "Pipeline not found: pipeline-none")


def test_an_id_that_no_database_can_store_is_refused(rest: Rest) -> None:
    assert_invalid(rest.get("/api/pipelines/a%00b"), (["path", "pipeline_id"], "string_pattern_mismatch"))


def test_put_changes_any_subset(rest: Rest) -> None:
    pipeline_id = rest.pipeline(*THREE, description="before")
    answer = rest.http.put(f"/api/pipelines/{pipeline_id}", json={"description": "after"})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == DETAIL
    assert (body["name"], body["description"], body["revision"], body["stage_count"]) == ("p", "after", 2, 3)
    assert body["updated_at"] is not None
    assert rest.json(f"/api/pipelines/{pipeline_id}") == body


def test_put_accepts_the_response_of_get(rest: Rest) -> None:
    pipeline_id = rest.pipeline(*THREE)
    read = rest.json(f"/api/pipelines/{pipeline_id}")
    answer = rest.http.put(f"/api/pipelines/{pipeline_id}", json={**read, "name": "renamed"})
    assert answer.status_code == 200, answer.text
    assert {**answer.json(), "updated_at": None} == {**read, "name": "renamed", "revision": 2}


def test_an_invalid_put_is_refused_and_changes_nothing(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    path = f"/api/pipelines/{pipeline_id}"
    assert_invalid(rest.http.put(path, json={"nme": "x"}), (["body", "nme"], "extra_forbidden"))
    assert_invalid(rest.http.put(path, json={"id": "other"}), (["body", "id"], "fixed"))
    assert_invalid(rest.http.put(path, json={"stages": []}), (["body", "stages"], "value_error"))
    assert rest.json(path)["revision"] == 1


def test_delete_keeps_history_and_waits_for_live_executions(rest: Rest, tmp_path: Path) -> None:
    signal = tmp_path / "go"
    pipeline_id = rest.pipeline(waiting(signal))
    execution_id = rest.start(pipeline_id)
    refused = rest.http.delete(f"/api/pipelines/{pipeline_id}")
    assert_refused(refused, 409, f"Pipeline {pipeline_id} has live executions: {execution_id}")
    signal.touch()
    rest.reaches(execution_id, "completed")
    deleted = rest.http.delete(f"/api/pipelines/{pipeline_id}")
    assert (deleted.status_code, deleted.json()) == (
        200,
        {"success": True, "message": f"Pipeline deleted: {pipeline_id}"},
    )
    assert_refused(rest.get(f"/api/pipelines/{pipeline_id}"), 404, f"Pipeline not found: {pipeline_id}")
    assert rest.json(f"/api/executions/{execution_id}")["pipeline_id"] == pipeline_id


def test_activate_and_deactivate(rest: Rest) -> None:
    pipeline_id = rest.pipeline()
    off = rest.post(f"/api/pipelines/{pipeline_id}/deactivate")
    assert (off.status_code, off.json()) == (
        200,
        {"success": True, "message": f"Pipeline deactivated: {pipeline_id}"},
    )
    for start in (
        rest.post(f"/api/executions/{pipeline_id}/execute"),
        rest.post("/api/executions", {"pipeline_id": pipeline_id}),
    ):
        assert_refused(start, 400, f"Pipeline is not active: {pipeline_id}")
    on = rest.post(f"/api/pipelines/{pipeline_id}/activate")
    assert (on.status_code, on.json()) == (200, {"success": True, "message": f"Pipeline activated: {pipeline_id}"})
    rest.run(pipeline_id)


def test_a_definition_is_read_again_only_when_it_changed(rest: Rest) -> None:
    pipeline_id = rest.pipeline(description="x" * 3000)
    path = f"/api/pipelines/{pipeline_id}"
    first = rest.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["content-encoding"] == "gzip"
    for same in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        unchanged = rest.get(path, headers={"if-none-match": same})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert rest.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    rest.post(f"{path}/deactivate")
    changed = rest.get(path, headers={"if-none-match": tag})
    assert (changed.status_code, changed.json()["is_active"]) == (200, False)
    assert changed.headers["etag"] != tag
