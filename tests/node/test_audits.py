"""The audits of npm's graphql-http: whether a server keeps to the specification of GraphQL over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexiroaster.config import load_settings
from tests.integration.graphql_api.running import serving
from tests.node import run
from tests.unit.graphql_api.small_schema import schema as small_schema

AUDITS = 61


@pytest.mark.parametrize("own", [True, False], ids=["our schema", "a small schema"])
def test_every_audit_is_ok(tmp_path: Path, own: bool) -> None:
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'api.db'}")
    with serving(settings, None if own else small_schema) as api:
        results = run("audit.mjs", api.url)
    assert len(results) == AUDITS
    assert [result for result in results if result["status"] != "ok"] == []
