"""Operations that are too large are refused before they cost anything; those that clients really send are not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from graphql import get_introspection_query, parse

from flexiroaster.model.viewer import Role
from flexiroaster.web.thread_pool import RefusedError
from graphql_api import query_cost
from graphql_api.documents import Documents
from tests.unit.graphql_api.hostile import HOSTILE
from tests.unit.graphql_api.small_schema import schema

MOST_CALLS = 150_000
"""Of Python functions, for any operation: a blow-up takes billions. What is promised, 50 ms of CPU time, is asserted in
tests/bench/bench_hostile.py."""


def within(most: int, work: Callable[[], object]) -> None:
    """Do it; fail as soon as it has called more functions than that, whatever time it takes."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"
        assert calls <= most

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)


def refusal(text: str, **variables: object) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        Documents(schema, debug=True).operation(text, Role.ADMIN, variables)
    return caught.value


def limit_of(text: str, **variables: object) -> object:
    return refusal(text, **variables).errors[0]["extensions"].get("limit")


def accepted(text: str, **variables: object) -> None:
    Documents(schema, debug=True).operation(text, Role.ADMIN, variables)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_operation_is_refused_at_once(text: str) -> None:
    documents = Documents(schema, debug=True)
    with pytest.raises(RefusedError) as caught:
        within(MOST_CALLS, lambda: documents.operation(text, Role.ADMIN))
    assert caught.value.status == 400
    assert 1 <= len(caught.value.errors) <= 11


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 60
    assert len(HOSTILE["bomb: 712 bytes"]) <= 712


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("depth", "{ run { " + "again { " * 9 + "name" + " }" * 11),
        ("aliases", "{ " + " ".join(f"a{n}: echo" for n in range(51)) + " }"),
        ("repeated fields", "{ run { " + "name " * 102 + "} }"),
        ("directives", "{ run { " + " ".join(f"a{n}: name @skip(if: false)" for n in range(31)) + " } }"),
        ("fields", "{ " + " ".join(f"x{n}" for n in range(501)) + " }"),
        ("fragments", "{ run { name } } " + " ".join(f"fragment f{n} on Run {{ name }}" for n in range(51))),
        ("operations", " ".join(f"query q{n} {{ echo }}" for n in range(11))),
        ("variables", "query (" + " ".join(f"$v{n}: Int" for n in range(51)) + ") { echo }"),
        ("introspection depth", "{ __schema { types { " + "ofType { " * 19 + "name" + " }" * 22),
        ("introspection lists", HOSTILE["introspection in circles"]),
        ("nesting", "{ run { " + "... { " * 100 + "name" + " }" * 102),
    ],
)  # fmt: skip
def test_each_limit_names_itself(limit: str, text: str) -> None:
    assert limit_of(text) == limit


@pytest.mark.parametrize(
    "text",
    [
        "{ run { " + "again { " * 8 + "name" + " }" * 10,
        "{ " + " ".join(f"a{n}: echo" for n in range(50)) + " }",
        "{ run { " + "name " * 100 + "} }",
        get_introspection_query(specified_by_url=True, directive_is_repeatable=True, input_value_deprecation=True),
        "{ runs(first: 100) { edges { cursor node { name key stages { name key } } } } }",
        "{ runs { edges { node { runs { edges { node { name } } } } } } }",
    ],
)
def test_what_clients_send_is_accepted(text: str) -> None:
    accepted(text)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_a_page_costs_what_it_holds() -> None:
    accepted("{ runs(first: 1000) { edges { node { name key } cursor } } }")
    assert limit_of("{ runs(first: 4000) { edges { node { name key } cursor } } }") == "cost"


def test_a_page_without_a_length_counts_as_the_schema_says_or_the_default() -> None:
    below = "edges { node { stages { tags { name } } } }"  # 10 x 10 names and more for each item
    accepted(f"{{ runs {{ {below} }} }}")  # 20 by the schema
    assert limit_of(f"{{ run {{ runs {{ {below} }} a: runs {{ {below} }} b: runs {{ {below} }} }} }}") == "cost"  # 50


def test_a_length_in_a_variable_counts_with_its_value_for_each_request() -> None:
    documents = Documents(schema)
    text = "query ($n: Int = 5) { runs(first: $n) { edges { node { name key } cursor } } }"
    documents.operation(text, Role.ADMIN, {"n": 100})
    with pytest.raises(RefusedError, match="limit of cost"):
        documents.operation(text, Role.ADMIN, {"n": 1_000_000})
    documents.operation(text, Role.ADMIN, {})


def test_a_fragment_costs_as_much_as_what_it_stands_for() -> None:
    plain = "{ runs(first: 1000) { edges { node { runs(first: 100) { edges { cursor } } } } } }"
    spread = (
        "{ runs(first: 1000) { ...c } } fragment c on Connection { edges { ...e } } "
        "fragment e on Edge { node { runs(first: 100) { edges { cursor } } } }"
    )
    assert limit_of(plain) == limit_of(spread) == "cost"
    smaller = spread.replace("1000", "10")
    accepted(smaller)


def test_two_operations_are_measured_with_their_own_variables() -> None:
    text = (
        "query a($n: Int = 1) { runs(first: $n) { ...c } } query b($n: Int = 1000000) { runs(first: $n) { ...c } } "
        "fragment c on Connection { edges { cursor } }"
    )
    assert limit_of(text) == "cost"
    Documents(schema).operation(text.replace("1000000", "10"), Role.ADMIN, name="b")


def test_the_work_grows_with_the_document_and_not_with_its_meaning() -> None:
    """Fifty fragments that double each time mean 2**50 fields; the walk refuses at the first that is too much."""
    document = parse(HOSTILE["bomb: two plain spreads"])
    found = []
    within(5_000, lambda: found.extend(query_cost.find_exceeded_limit(schema._schema, document, {})))
    assert found
