"""What clients and the log are told of errors."""

from __future__ import annotations

import logging

import pytest
from graphql import GraphQLError, parse

from flexiroaster.errors import DefinitionError, NotFoundError, Problem, StoreError
from graphql_api.client_errors import client_values, error_for_client, log_internal_error


def raised(error: Exception) -> GraphQLError:
    """As graphql-core wraps what a resolver raised."""
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - it is wrapped
        return GraphQLError(str(caught), original_error=caught, path=["a", 0])


def test_an_error_of_ours_keeps_its_message_code_and_details() -> None:
    shown = error_for_client(raised(NotFoundError("there is no x", name="x", code="mine")))
    assert shown == {"message": "there is no x", "path": ["a", 0], "extensions": {"name": "x", "code": "not_found"}}
    shown = error_for_client(raised(DefinitionError([Problem("stages[0].id", "is required")])))
    assert shown["extensions"]["problems"] == [{"path": "stages[0].id", "message": "is required", "code": "invalid"}]


def test_an_error_of_ours_in_one_of_graphql_is_still_ours() -> None:
    inner = raised(NotFoundError("gone"))
    assert error_for_client(GraphQLError("outer", original_error=inner))["extensions"]["code"] == "not_found"


def test_graphqls_own_errors_have_codes() -> None:
    assert error_for_client(GraphQLError("bad variable"))["extensions"] == {"code": "BAD_USER_INPUT"}
    assert error_for_client(GraphQLError("bad value", path=["a"]))["extensions"] == {"code": "EXECUTION_FAILED"}
    chosen = GraphQLError("no", extensions={"code": "FORBIDDEN", "more": 1})
    assert error_for_client(chosen)["extensions"] == {"code": "FORBIDDEN", "more": 1}


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ZeroDivisionError("by zero"), "Internal error", "INTERNAL"),
        (StoreError("cannot reach db.internal"), "The database cannot be reached", "store"),
    ],
)
def test_others_are_masked_and_logged_once_under_their_id(
    error: Exception, message: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = error_for_client(raised(error))
    assert (shown["message"], shown["extensions"]["code"], shown["path"]) == (message, code, ["a", 0])
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert shown["extensions"]["errorId"] in record.getMessage()
    assert str(error) in record.getMessage()
    assert "in a.0" in record.getMessage()
    assert record.exc_info is None  # a formatter of tracebacks would show the values of variables


def test_the_log_hides_literals_and_variables_also_of_causes(caplog: pytest.LogCaptureFixture) -> None:
    document = parse('query ($v: T = {deep: "default-1"}) { a(x: "literal-2", n: 31415926, f: 2.7182) { b(v: $v) } }')
    values_to_mask = client_values(document, {"v": {"key-3": ["variable-4", {"k": 161803}]}, "none": None, "yes": True})
    said = ["default-1", "literal-2", "31415926", "2.7182", "key-3", "variable-4", "161803"]
    assert values_to_mask >= set(said)
    quoted = "quote's\n"
    try:
        try:
            raise KeyError(said[5])
        except KeyError as cause:
            raise ValueError(" and ".join(said) + repr(quoted)) from cause
    except ValueError as error:
        log_internal_error(error, values_to_mask={*values_to_mask, quoted})
    text = caplog.records[0].getMessage()
    assert not [word for word in [*said, "quote's"] if word in text]
    assert "ValueError: *** and ***" in text
    assert "KeyError: '***'" in text
    assert "raise KeyError" in text  # the lines of our own source are not what a client said


def test_errors_that_cause_one_another_in_a_circle_end(caplog: pytest.LogCaptureFixture) -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    log_internal_error(first)
    assert caplog.records[0].getMessage().count("ValueError: first") == 1
