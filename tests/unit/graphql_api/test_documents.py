"""Documents are parsed and validated once, in a memory that nobody can fill."""

from __future__ import annotations

import pytest

from flexiroaster.model.viewer import Role
from flexiroaster.web.thread_pool import RefusedError
from graphql_api import documents as module
from graphql_api.documents import Documents
from tests.unit.graphql_api.small_schema import schema


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was validated."""
    seen: list[object] = []

    def validate(*arguments, **options):
        seen.append(arguments[1])
        return original(*arguments, **options)

    original = module.validate
    monkeypatch.setattr(module, "validate", validate)
    return seen


def test_a_document_is_validated_once_for_each_role(validations: list[object]) -> None:
    documents = Documents(schema)
    for _ in range(3):
        for role in Role:
            documents.operation("{ run { name } }", role)
    assert len(validations) == 3


def test_what_is_refused_or_long_is_not_kept(validations: list[object]) -> None:
    documents = Documents(schema)
    long = "{ run { name } } #" + "x" * 10_000
    for _ in range(2):
        documents.operation(long, Role.ADMIN)
        with pytest.raises(RefusedError):
            documents.operation("{ nothing }", Role.ADMIN)
    assert len(validations) == 4


def test_the_memory_is_bounded(validations: list[object]) -> None:
    documents = Documents(schema)
    for number in range(300):
        documents.operation(f'{{ echo(text: "{number}") }}', Role.ADMIN)
    assert documents._cached.cache_info().currsize == 256


def test_the_operation_is_the_only_one_or_the_one_that_is_named() -> None:
    documents = Documents(schema)
    text = 'query a { echo } mutation b { start(name: "x") { name } }'
    assert documents.operation(text, Role.ADMIN, name="b").type.value == "mutation"
    assert documents.operation("query a { echo }", Role.ADMIN).name == "a"
    assert documents.operation("{ echo }", Role.ADMIN).name is None
    for name, message in ((None, "operationName is required"), ("c", "no operation named 'c'")):
        with pytest.raises(RefusedError, match=message):
            documents.operation(text, Role.ADMIN, name=name)
