"""Every field says who may use it, and a document that uses more is refused before anything runs."""

from __future__ import annotations

import pytest
import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.web.thread_pool import RefusedError
from graphql_api.documents import Documents
from graphql_api.permissions import interface_type, object_type, permissions, requires, undeclared_fields
from tests.unit.graphql_api.small_schema import schema


def forbidden(query: str, role: Role, *, debug: bool = False) -> list[str]:
    """The messages about fields that a role may not use."""
    try:
        Documents(schema, debug=debug).operation(query, role)
    except RefusedError as refused:
        codes = {error["extensions"]["code"] for error in refused.errors}
        return (
            [error["message"] for error in refused.errors] if (refused.status, codes) == (403, {"FORBIDDEN"}) else ["?"]
        )
    return []


def test_a_field_says_it_itself_or_its_type_does() -> None:
    assert permissions(schema)["Stage", "secret"] is Role.ADMIN
    assert permissions(schema)["Stage", "key"] is Role.OPERATOR
    assert permissions(schema)["Stage", "tags"] is Role.VIEWER
    assert permissions(schema)["Mutation", "start"] is Role.OPERATOR


def test_a_field_that_says_nothing_is_named_and_refused_to_everybody() -> None:
    assert undeclared_fields(schema) == ["Query.undeclared"]
    assert ("Query", "undeclared") not in permissions(schema)
    assert forbidden("{ undeclared }", Role.ADMIN) == ["Query.undeclared declares no required role"]


def test_an_interface_is_no_way_around() -> None:
    """Stage.key needs an operator, Run.key does not: through the interface it may be a Stage's."""
    assert permissions(schema)["Named", "name"] is Role.VIEWER
    assert permissions(schema)["Named", "key"] is Role.OPERATOR
    assert forbidden("{ named { key } }", Role.VIEWER) == ["Named.key needs the role operator"]
    assert forbidden("{ named { name ... on Run { key } } }", Role.VIEWER) == []


def test_each_field_is_one_error_wherever_it_stands() -> None:
    query = """
        query { run { stages { ...s ... on Stage { secret } } } named { ... on Stage { key } } }
        fragment s on Stage { secret name }
    """
    assert forbidden(query, Role.VIEWER) == [
        "Stage.secret needs the role admin",
        "Stage.key needs the role operator",
        "Stage.secret needs the role admin",
    ]
    assert forbidden(query, Role.OPERATOR) == ["Stage.secret needs the role admin"] * 2
    assert forbidden(query, Role.ADMIN) == []


def test_a_field_that_is_skipped_is_refused_too() -> None:
    """Whether it is skipped may be a variable's choice, and documents are checked once for all variables."""
    assert forbidden("{ run { stages { secret @skip(if: true) } } }", Role.VIEWER)


def test_mutations_and_subscriptions_are_fields_like_others() -> None:
    assert forbidden('mutation { start(name: "x") { name } }', Role.VIEWER) == [
        "Mutation.start needs the role operator"
    ]
    assert forbidden("subscription { ticks }", Role.VIEWER) == []


@pytest.mark.parametrize("query", ["{ __schema { types { name } } }", '{ __type(name: "Run") { name } }'])
def test_introspection_is_for_operators_and_for_development(query: str) -> None:
    assert forbidden(query, Role.VIEWER) == ["Introspection is not available to your role"]
    assert forbidden(query, Role.VIEWER, debug=True) == []
    assert forbidden(query, Role.OPERATOR) == []
    assert forbidden("{ __typename run { __typename } }", Role.VIEWER) == []


def test_what_one_role_may_is_not_remembered_for_another() -> None:
    documents = Documents(schema)
    query = "{ run { stages { secret } } }"
    for _ in range(2):
        documents.operation(query, Role.ADMIN)
        with pytest.raises(RefusedError):
            documents.operation(query, Role.VIEWER)


@interface_type(Role.ADMIN)
class Guarded:
    owner: str

    @strawberry.field
    def digest(self) -> str:
        return ""


@object_type(Role.VIEWER)
class Key(Guarded):
    label: str

    @strawberry.field
    def digest(self) -> str:
        return "mine"


@strawberry.type
class Root:
    key: Key = strawberry.field(metadata=requires(Role.VIEWER))
    undeclared: str


def test_inherited_fields_keep_the_role_that_their_type_declares() -> None:
    other = strawberry.Schema(Root, types=[Key])
    assert undeclared_fields(other) == ["Root.undeclared"]
    table = permissions(other)
    assert table["Key", "owner"] is Role.ADMIN  # as the interface that defines it says
    assert table["Key", "label"] is Role.VIEWER
    assert table["Key", "digest"] is Role.VIEWER  # redefined, so as its own type says
    assert table["Guarded", "digest"] is Role.ADMIN
