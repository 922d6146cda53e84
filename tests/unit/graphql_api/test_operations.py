"""In which form a payload is wanted: who shares a text with whom."""

from __future__ import annotations

import pytest
import strawberry

from flexiroaster.model.viewer import Role
from graphql_api.documents import Documents
from graphql_api.operations import _Form, _form
from graphql_api.schema import schema
from graphql_api.transport.requests import GraphQLRequest

PLAIN = "subscription ($id: ID!, $after: String) { executionEvents(executionId: $id, after: $after) { cursor } }"
USED_TWICE = """
subscription ($id: ID!, $after: String) {
  executionEvents(executionId: $id, after: $after) { execution { events(after: $after) { nodes { seq } } } }
}
"""
TWO = "subscription A { executions { cursor } } subscription B { executions { execution { id } } }"


@pytest.fixture(scope="module")
def documents() -> Documents:
    assert isinstance(schema, strawberry.Schema)
    return Documents(schema)


def form(documents: Documents, query: str, role: Role = Role.VIEWER, name: str | None = None, **given: object) -> _Form:
    asked = GraphQLRequest(query, given, name)
    return _form(documents.operation(query, role, given, name), asked, role)


def test_where_it_begins_makes_no_difference(documents: Documents) -> None:
    begun = form(documents, PLAIN, id="x")
    assert begun == form(documents, PLAIN, id="x", after="a") == form(documents, PLAIN, after="b", id="x")


@pytest.mark.parametrize(
    ("query", "role", "name", "given"),
    [
        (PLAIN, Role.VIEWER, None, {"id": "y"}),
        (PLAIN, Role.ADMIN, None, {"id": "x"}),
        (f"{PLAIN} ", Role.VIEWER, None, {"id": "x"}),
    ],
)
def test_anything_else_does(
    documents: Documents, query: str, role: Role, name: str | None, given: dict[str, object]
) -> None:
    assert form(documents, query, role, name, **given) != form(documents, PLAIN, id="x")


def test_which_operation_of_a_document_does(documents: Documents) -> None:
    assert form(documents, TWO, name="A") != form(documents, TWO, name="B")


def test_a_cursor_that_is_used_elsewhere_too_does(documents: Documents) -> None:
    """Its value is then part of what each payload says."""
    assert form(documents, USED_TWICE, id="x", after="a") != form(documents, USED_TWICE, id="x", after="b")
