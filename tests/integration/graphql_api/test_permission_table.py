"""The table role by field, cell by cell, against a running server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from flexiroaster.config import load_settings
from flexiroaster.model.viewer import Role
from flexiroaster.service import tokens
from graphql_api.permissions import FORBIDDEN, permissions
from graphql_api.schema import schema
from tests.integration.graphql_api.paths import Use, uses
from tests.integration.graphql_api.running import Api, serving

TABLE = permissions(schema)
USES = list(uses(schema._schema))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    url = f"sqlite:///{tmp_path_factory.mktemp('api') / 'api.db'}"
    with serving(load_settings(database_url=url, redis_url="")) as running:
        yield running


@pytest.fixture(scope="module")
def secrets(api: Api) -> dict[Role, str]:
    return {role: tokens.create(api.installation, role.value, role, timedelta(hours=1)) for role in Role}


def allowed(role: Role, use: Use) -> bool:
    """Whether the table lets a role use all that the document uses."""
    return all(role.covers(TABLE[step]) for step in use.way)


def refused(api: Api, secret: str, use: Use) -> bool:
    """Whether the server refuses the document for the role; what it does not refuse, it cannot run: a variable that
    every document needs has no value.
    """
    answer = api.post(use.document, authorization=f"Bearer {secret}").json()
    codes = {error.get("extensions", {}).get("code") for error in answer["errors"]}
    assert codes in ({FORBIDDEN}, {"BAD_USER_INPUT"}), (use.document, answer)
    return FORBIDDEN in codes


def test_every_field_that_can_be_asked_for_is_in_a_document() -> None:
    reached = {use.type for use in USES}
    assert {key for key in TABLE if key[0] in reached} == {(use.type, use.field) for use in USES}
    assert {"Query", "Mutation", "Execution", "AuditEntry"} <= reached


@pytest.mark.parametrize("role", Role)
def test_each_cell_over_http(api: Api, secrets: dict[Role, str], role: Role) -> None:
    wrong = [u.document for u in USES if refused(api, secrets[role], u) is allowed(role, u)]
    assert wrong == []


def test_the_table_has_both_answers_for_every_lesser_role() -> None:
    for role in (Role.VIEWER, Role.OPERATOR):
        assert {allowed(role, use) for use in USES} == {True, False}
