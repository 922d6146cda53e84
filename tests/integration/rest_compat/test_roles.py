"""Permissions: every operation of the OpenAPI document, without a token, with an invalid one, and with each role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flexiroaster.config import Settings
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from tests.integration.rest_compat.client import Rest, assert_refused, serving

PUBLIC = {"get_root", "get_health", "get_liveness", "get_readiness"}
OPERATORS = {
    "create_pipeline",
    "update_pipeline",
    "delete_pipeline",
    "activate_pipeline",
    "deactivate_pipeline",
    "start_execution",
    "execute_pipeline",
    "stop_execution",
    "pause_execution",
    "resume_execution",
    "override_decision",
    "airflow_callback",
}


@pytest.fixture(scope="module")
def closed(rest_settings: Settings) -> Iterator[Rest]:
    """A server that requires tokens."""
    with serving(rest_settings, executor=False) as running:
        for role in Role:
            secret = tokens.create(running.installation, role, role)
            setattr(running, role, {"authorization": f"Bearer {secret}"})
        yield running


def operations(rest: Rest) -> dict[str, tuple[str, str]]:
    """Operation name -> method and path."""
    paths = rest.json("/api/openapi.json")["paths"]
    return {
        operation["operationId"]: (method, path.replace("{", "").replace("}", ""))
        for path, item in paths.items()
        for method, operation in item.items()
    }


def test_every_operation_but_the_probes_needs_a_token(closed: Rest) -> None:
    for name, (method, path) in operations(closed).items():
        answer = closed.http.request(method, path)
        if name in PUBLIC:
            assert answer.status_code == 200
            continue
        assert_refused(answer, 401, "Authentication required: send the header Authorization: Bearer <token>")
        assert answer.headers["www-authenticate"] == "Bearer"
        wrong = closed.http.request(method, path, headers={"authorization": "Bearer frt_wrong"})
        assert_refused(wrong, 401, "Invalid token: it is unknown, expired or revoked")


def test_a_viewer_reads_and_does_not_change(closed: Rest) -> None:
    found = operations(closed)
    assert set(found) >= OPERATORS | PUBLIC
    for name, (method, path) in found.items():
        as_viewer = closed.http.request(method, path, headers=closed.viewer)
        as_operator = closed.http.request(method, path, headers=closed.operator)
        if name in OPERATORS:
            assert_refused(as_viewer, 403, "This call requires the role operator; the token has the role viewer")
        else:
            assert as_viewer.status_code not in {401, 403}, name
        assert as_operator.status_code not in {401, 403}, name


def test_health_shows_strangers_only_the_status(closed: Rest) -> None:
    details = [service["details"] for service in closed.json("/health")["services"].values()]
    assert details == [{}, {"fallback_mode": True}, {}]
    known = closed.get("/health", headers=closed.viewer).json()["services"]
    assert known["database"]["details"]["dialect"] in {"sqlite", "postgresql"}
