"""The table role by field, cell by cell, against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from graphql import GraphQLInterfaceType
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from flexiroaster.config import load_settings
from flexiroaster.model.viewer import Role
from flexiroaster.service.admin import tokens
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
    """Whether the table permits a role all fields of the document."""
    return all(role.covers(TABLE[step]) for step in use.way)


def refused(use: Use, errors: list[dict[str, Any]]) -> bool:
    """Whether the server refused the document for the role.

    It cannot run the others either, because a required variable has no value.
    """
    codes = {error.get("extensions", {}).get("code") for error in errors}
    assert codes in ({FORBIDDEN}, {"BAD_USER_INPUT"}), (use.document, errors)
    return FORBIDDEN in codes


def over_http(api: Api, secret: str) -> Iterator[tuple[Use, bool]]:
    """Each document and whether it is refused; subscriptions do not work over plain HTTP."""
    for use in USES:
        if not use.document.startswith("subscription"):
            answer = api.post(use.document, authorization=f"Bearer {secret}").json()
            yield use, refused(use, answer["errors"])


def over_websocket(api: Api, secret: str) -> Iterator[tuple[Use, bool]]:
    """Each document and whether it is refused, on one connection."""
    url = api.url.replace("http://", "ws://")
    protocols = [Subprotocol("graphql-transport-ws")]
    with connect(url, subprotocols=protocols, open_timeout=60, ping_interval=None) as socket:
        socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {secret}"}}))
        assert json.loads(socket.recv(timeout=60))["type"] == "connection_ack"
        for number, use in enumerate(USES):
            socket.send(json.dumps({"id": str(number), "type": "subscribe", "payload": {"query": use.document}}))
            yield use, refused(use, errors_of(socket, str(number)))


def errors_of(socket: ClientConnection, operation: str) -> list[dict[str, Any]]:
    """The errors that end an operation: before it begins, or as its only result."""
    answer = json.loads(socket.recv(timeout=60))
    assert answer["id"] == operation, answer
    if answer["type"] == "error":
        return list(answer["payload"])
    assert json.loads(socket.recv(timeout=60)) == {"id": operation, "type": "complete"}
    assert not answer["payload"].get("data"), answer
    return list(answer["payload"]["errors"])


WAYS = {"http": over_http, "websocket": over_websocket}


def test_every_reachable_field_is_in_a_document() -> None:
    reached = {use.type for use in USES}
    interfaces = {name for name, type_ in schema._schema.type_map.items() if isinstance(type_, GraphQLInterfaceType)}
    assert {key for key in TABLE if key[0] not in interfaces} <= {(use.type, use.field) for use in USES}
    assert {"Query", "Mutation", "Subscription", "Execution", "AuditEntry"} <= reached


@pytest.mark.parametrize(("role", "way"), [*((role, "http") for role in Role), (Role.VIEWER, "websocket")])
def test_each_cell_of_the_table_is_enforced(api: Api, secrets: dict[Role, str], role: Role, way: str) -> None:
    found = list(WAYS[way](api, secrets[role]))
    assert [use.document for use, no in found if no is allowed(role, use)] == []
    assert len(found) >= 200


def test_the_table_has_both_answers_for_every_lesser_role() -> None:
    for role in (Role.VIEWER, Role.OPERATOR):
        assert {allowed(role, use) for use in USES} == {True, False}
