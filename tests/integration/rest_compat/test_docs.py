"""The OpenAPI document is valid, and its page loads nothing from other hosts."""

from __future__ import annotations

import re

from tests.integration.rest_compat.client import Rest

CALLS = {
    ("get", "/"),
    ("get", "/health"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
    ("get", "/insights"),
    ("post", "/api/airflow/callback"),
    ("post", "/api/pipelines"),
    ("get", "/api/pipelines"),
    ("get", "/api/pipelines/{pipeline_id}"),
    ("put", "/api/pipelines/{pipeline_id}"),
    ("delete", "/api/pipelines/{pipeline_id}"),
    ("post", "/api/pipelines/{pipeline_id}/activate"),
    ("post", "/api/pipelines/{pipeline_id}/deactivate"),
    ("post", "/api/executions"),
    ("post", "/api/executions/{pipeline_id}/execute"),
    ("get", "/api/executions"),
    ("get", "/api/executions/running"),
    ("get", "/api/executions/{execution_id}"),
    ("post", "/api/executions/{execution_id}/stop"),
    ("post", "/api/executions/{execution_id}/pause"),
    ("post", "/api/executions/{execution_id}/resume"),
    ("get", "/api/executions/{execution_id}/logs"),
    ("get", "/api/executions/{execution_id}/events"),
    ("get", "/api/executions/{execution_id}/decisions"),
    ("post", "/api/executions/{execution_id}/decisions/{decision_id}/override"),
}


def test_the_document_is_openapi_3_1_and_has_every_operation(rest: Rest) -> None:
    document = rest.json("/api/openapi.json")
    assert document["openapi"].startswith("3.1.")
    assert {(method, path) for path, item in document["paths"].items() for method in item} == CALLS
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], (method, path)
    text = str(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in text


def test_the_page_loads_nothing_from_other_hosts(rest: Rest) -> None:
    page = rest.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert linked == ["/api/docs/page.css", "/api/docs/page.js"]
    for path, kind in zip(linked, ("text/css", "text/javascript"), strict=True):
        answer = rest.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "//" not in re.sub(r"(?m)^\s*//.*$", "", answer.text)  # no address of another server
        assert "innerHTML" not in answer.text
    assert 'data-document="/api/openapi.json"' in page.text
