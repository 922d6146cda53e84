"""rules: what is found in a table, and what happens then."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass
from flexiroaster.model.pipeline import StageType
from tests.unit.operators.attempts import problems, validate
from tests.unit.operators.validations import failure, found, message, valid

PEOPLE = {"id": [1, 2, 3, 4], "name": ["Ada", "Bob", None, "Eve"], "age": [36, -1, 200, None]}
VALID = {"valid": True, "rows": 4, "invalid_rows": 0, "rules": []}


# --- the whole ---


def test_a_valid_table_is_handed_on():
    result = validate({"schema": {"id": "integer", "name": "string", "age": "integer"}}, PEOPLE)
    assert (result.passthrough_stage, result.table, dict(result.side_tables)) == ("load-data", None, {})
    assert result.report == VALID


def test_no_rules_hold_for_every_table():
    assert valid({}, PEOPLE)


def test_a_table_without_columns_passes_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        result = validate({"schema": {"id": "integer"}, "not_null": ["id"]}, pl.DataFrame())
    assert result.passthrough_stage == "load-data"
    assert result.report == {**VALID, "rows": 0, "warnings": ["the input is empty"]}
    assert caplog.messages == ["the input of stage 'here' is empty: it has no columns and no rows"]


def test_a_table_without_columns_fails_where_rows_are_asked_for():
    assert message({"rows": {"min": 1}}, pl.DataFrame()) == "the table is invalid: 0 rows, fewer than 1"


def test_columns_without_rows_are_checked_as_such():
    schema = {"id": pl.Int64, "name": pl.String}
    empty = pl.DataFrame(schema=schema)
    rules = {"schema": {"id": "integer"}, "unique": ["id"], "ranges": {"id": {"min": 0}}, "checks": {"c": "id > 0"}}
    assert valid(rules, empty)
    assert message({"required": ["age"]}, empty) == "the table is invalid: column 'age' is missing"


MANY = {
    "schema": {"id": "integer"},
    "not_null": ["name"],
    "ranges": {"age": {"min": 0, "max": 150}},
    "patterns": {"name": "[A-Z][a-z]+"},
}


def test_fail_names_all_rules_in_one_line_and_carries_the_report():
    error = failure(MANY, PEOPLE)
    assert error.error_class is ErrorClass.DATA
    assert error.message == (
        "2 of 4 rows invalid: name: not_null: 1 row; age: range (min 0, max 150): 2 rows, such as -1, 200"
    )
    assert error.details == {
        "valid": False,
        "rows": 4,
        "invalid_rows": 2,
        "rules": [
            {"rule": "not_null", "column": "name", "count": 1, "examples": [], "detail": ""},
            {"rule": "range", "column": "age", "count": 2, "examples": [-1, 200], "detail": "min 0, max 150"},
        ],
    }


def test_drop_keeps_the_valid_rows(caplog):
    with caplog.at_level(logging.WARNING):
        result = validate({**MANY, "on_invalid": "drop"}, PEOPLE)
    assert result.table.collect().rows() == [(1, "Ada", 36), (4, "Eve", None)]
    assert result.report == failure(MANY, PEOPLE).details
    assert dict(result.side_tables) == {}
    assert caplog.messages == [failure(MANY, PEOPLE).message]


def test_quarantine_keeps_the_others_with_their_reasons():
    result = validate({**MANY, "on_invalid": "quarantine"}, PEOPLE)
    assert result.table.collect().rows() == [(1, "Ada", 36), (4, "Eve", None)]
    assert result.side_tables["quarantine"].collect().to_dicts() == [
        {"id": 2, "name": "Bob", "age": -1, "_reasons": "age: range (min 0, max 150)"},
        {"id": 3, "name": None, "age": 200, "_reasons": "name: not_null; age: range (min 0, max 150)"},
    ]


def test_a_quarantine_can_be_validated_again():
    again = {**PEOPLE, "_reasons": ["old"] * 4}
    result = validate({**MANY, "on_invalid": "quarantine"}, again)
    assert result.side_tables["quarantine"].collect()["_reasons"].to_list()[0] == "age: range (min 0, max 150)"
    assert result.table.collect().columns == list(again)


def test_nothing_invalid_gives_no_quarantine():
    result = validate({"not_null": ["id"], "on_invalid": "quarantine"}, PEOPLE)
    assert (result.passthrough_stage, dict(result.side_tables)) == ("load-data", {})


@pytest.mark.parametrize("on_invalid", ["drop", "quarantine"])
def test_what_is_wrong_with_the_whole_table_fails_always(on_invalid):
    config = {**MANY, "required": ["email"], "on_invalid": on_invalid}
    assert message(config, PEOPLE) == (
        "the table is invalid: column 'email' is missing; name: not_null: 1 row; "
        "age: range (min 0, max 150): 2 rows, such as -1, 200"
    )


def test_examples_are_distinct_few_and_json():
    table = {"x": [float("nan"), math.inf, 5.0, 5.0, 6.0, 7.0], "d": [dt.date(2024, 1, 1)] * 6, "t": ["y" * 200] * 6}
    config = {"ranges": {"x": {"max": 1}, "d": {"max": "2023-12-31"}}, "patterns": {"t": "x"}, "max_examples": 3}
    assert found(config, table) == [
        ("range", "x", 6, ["nan", "inf", 5.0]),
        ("range", "d", 6, ["2024-01-01"]),
        ("pattern", "t", 6, ["y" * 97 + "..."]),
    ]
    assert json.dumps(failure(config, table).details, allow_nan=False)
    assert found({**config, "max_examples": 0}, table)[0] == ("range", "x", 6, [])


# --- required ---


def test_all_columns_that_rules_name_must_be_there():
    config = {
        "schema": {"a": "integer"},
        "not_null": ["b"],
        "unique": ["c", ["id", "d"]],
        "ranges": {"e": {"min": 1}},
        "patterns": {"f": "x"},
        "allowed": {"g": [1]},
        "checks": {"h": "h > id AND i = 1"},
    }
    assert message(config, PEOPLE) == (
        "the table is invalid: "
        + "; ".join(f"column '{name}' is missing" for name in "abcdefg")
        + "; check 'h' needs columns 'h', 'i', not found"
    )


def test_with_required_the_others_may_be_absent():
    config = {"required": ["id"], "schema": {"id": "integer", "email": "string"}, "ranges": {"email": {"min": 1}}}
    assert valid(config, PEOPLE)
    assert message({**config, "required": ["email"]}, PEOPLE) == "the table is invalid: column 'email' is missing"


# --- rules on rows ---


def test_not_null_refuses_nan_too():
    assert found({"not_null": ["x"]}, {"x": [1.0, math.nan, None]}) == [("not_null", "x", 2, [])]


def test_unique_keeps_the_first_and_does_not_compare_missing_values():
    table = {"k": [1, 2, 1, None, None, 1], "v": [1, 1, 1, 1, 1, 2]}
    assert found({"unique": ["k"]}, table) == [("unique", "k", 2, [1])]
    result = validate({"unique": ["k"], "on_invalid": "drop"}, table)
    assert result.table.collect()["k"].to_list() == [1, 2, None, None]


def test_unique_over_several_columns():
    table = {"a": [1, 1, 1], "b": ["x", "y", "x"]}
    assert found({"unique": [["a", "b"]]}, table) == [("unique", "a, b", 1, [{"a": 1, "b": "x"}])]
    assert message({"unique": [["a", "b"]]}, table) == (
        "1 of 3 rows invalid: a, b: unique: 1 row, such as {'a': 1, 'b': 'x'}"
    )


@pytest.mark.parametrize(
    ("bounds", "invalid", "detail"),
    [
        ({"min": 2}, [1], "min 2"),
        ({"max": 2}, [3], "max 2"),
        ({"min": 2, "max": 2}, [1, 3], "min 2, max 2"),
        ({"min": 1, "exclusive_min": True}, [1], "min 1 exclusive"),
        ({"max": 3, "exclusive_max": True}, [3], "max 3 exclusive"),
        ({"min": 1.5}, [1], "min 1.5"),
    ],
)
def test_ranges(bounds, invalid, detail):
    (rule,) = failure({"ranges": {"x": bounds}}, {"x": [1, 2, 3, None]}).details["rules"]
    assert (rule["examples"], rule["detail"]) == (invalid, detail)


def test_ranges_of_dates_times_and_text():
    table = {"d": [dt.date(2024, 1, 1)], "t": [dt.datetime(2024, 1, 1, 12)], "s": ["m"]}
    assert valid({"ranges": {"d": {"min": "2024-01-01"}, "t": {"max": "2024-01-01T12:00"}, "s": {"max": "z"}}}, table)
    assert found({"ranges": {"t": {"max": "2024-01-01"}}}, table)[0][2] == 1


@pytest.mark.parametrize(
    ("values", "bounds", "text"),
    [
        (["a"], {"min": [1]}, None),
        ([1], {"min": "a"}, "range of column 'x': 'a' does not fit a column of type integer"),
        ([dt.date(2024, 1, 1)], {"max": "soon"}, "range of column 'x': 'soon' does not fit a column of type date"),
        ([dt.date(2024, 1, 1)], {"max": 5}, "range of column 'x': 5 does not fit a column of type date"),
        ([[1]], {"max": 5}, "range of column 'x': 5 does not fit a column of type List(Int64)"),
    ],
)
def test_bounds_that_do_not_fit(values, bounds, text):
    error = failure({"ranges": {"x": bounds}, "on_invalid": "drop"}, {"x": values})
    if text is None:
        assert error.error_class is ErrorClass.CONFIGURATION
    else:
        assert error.message == f"the table is invalid: {text}"


def test_patterns_match_the_whole_text():
    table = {"x": ["N123", "xN123", "N123\n", "", None, "N1|z"]}
    assert found({"patterns": {"x": r"N\d+"}}, table) == [("pattern", "x", 4, ["xN123", "N123\n", "", "N1|z"])]
    assert found({"patterns": {"x": r"N\d+|"}}, table)[0][2] == 3
    assert found({"patterns": {"x": r"^N\d+$"}}, table)[0][2] == 4


def test_patterns_and_values_of_categories():
    table = pl.DataFrame({"c": pl.Series(["a", "b"], dtype=pl.Categorical)})
    assert found({"patterns": {"c": "a"}}, table) == [("pattern", "c", 1, ["b"])]
    assert found({"allowed": {"c": ["a"]}}, table) == [("allowed", "c", 1, ["b"])]


def test_a_pattern_needs_text():
    assert message({"patterns": {"x": "a"}}, {"x": [1]}) == (
        "the table is invalid: pattern of column 'x' needs text, the column is integer"
    )


def test_allowed_values():
    table = {"s": ["a", "b", None], "n": [1, 2, 3], "d": [dt.date(2024, 1, 1)] * 3, "f": [1.0, math.nan, None]}
    config = {"allowed": {"s": ["a"], "n": [1, 2], "d": ["2024-01-01"], "f": [1]}}
    assert found(config, table) == [("allowed", "s", 1, ["b"]), ("allowed", "n", 1, [3]), ("allowed", "f", 1, ["nan"])]
    (detail,) = {rule["detail"] for rule in failure({"allowed": {"n": [1, 2]}}, table).details["rules"]}
    assert detail == "1, 2"


def test_many_allowed_values_are_not_all_shown():
    (rule,) = failure({"allowed": {"x": list(range(50))}}, {"x": [99]}).details["rules"]
    assert rule["detail"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."


def test_allowed_values_that_do_not_fit():
    assert message({"allowed": {"x": [1, "b"]}}, {"x": [1]}) == (
        "the table is invalid: allowed of column 'x': 'b' does not fit a column of type integer"
    )


# --- checks ---


def test_checks_by_row_pass_where_they_are_null():
    table = {"a": [1, 5, None], "b": [2, 4, 3]}
    assert message({"checks": {"order": "a <= b"}}, table) == (
        "1 of 3 rows invalid: check (order: a <= b): 1 row, such as {'a': 5, 'b': 4}"
    )
    assert found({"checks": {"order": "a <= b"}}, table) == [("check", None, 1, [{"a": 5, "b": 4}])]


def test_checks_of_the_whole_table():
    table = {"a": [1, 2]}
    assert valid({"checks": {"mean": "AVG(a) < 5", "rows": "COUNT(*) = 2"}}, table)
    config = {"checks": {"mean": "AVG(a) > 5"}, "on_invalid": "drop"}
    assert message(config, table) == "the table is invalid: check 'mean' failed: AVG(a) > 5"


def test_a_check_that_is_no_condition():
    error = failure({"checks": {"c": "a + 1"}}, {"a": [1]})
    assert error.error_class is ErrorClass.CODE
    assert error.message == "checks.c: must be boolean, returns integer: 'a + 1'"


def test_rows():
    assert valid({"rows": {"min": 4, "max": 4}}, PEOPLE)
    assert message({"rows": {"min": 5}}, PEOPLE) == "the table is invalid: 4 rows, fewer than 5"
    assert message({"rows": {"max": 3}}, PEOPLE) == "the table is invalid: 4 rows, more than 3"


# --- definitions ---


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"schema": {"x": "integr"}}, ".schema.x: unknown type 'integr'; did you mean 'integer'"),
        ({"checks": {"c": "a >"}}, ".checks.c: cannot be parsed as an SQL expression: 'a >'"),
        ({"checks": {"c": "a IN (SELECT b FROM read_csv('x'))"}}, ".checks.c: READ_CSV is not allowed in SQL"),
        ({"patterns": {"x": "(a"}}, ".patterns.x: unclosed group: '(a'"),
        (
            {"patterns": {"x": "(?=a)"}},
            ".patterns.x: look-around, including look-ahead and look-behind, is not supported",
        ),
        ({"ranges": {"x": {}}}, ".ranges.x: give 'min', 'max' or both"),
        ({"ranges": {"x": {"min": 2, "max": 1}}}, ".ranges.x: 'min' 2 is above 'max' 1"),
        ({"rows": {"min": 2, "max": 1}}, ".rows: 'min' 2 is above 'max' 1"),
        ({"on_invalid": "ignore"}, ".on_invalid: must be one of 'fail', 'drop' or 'quarantine', not \"ignore\""),
        ({"uniqe": ["x"]}, ".uniqe: is not a known field; did you mean 'unique'?"),
    ],
)
def test_definitions_that_do_not_hold(config, text):
    (problem,) = problems(config, stage_type=StageType.VALIDATION)
    assert problem.startswith(f"stages[0].config{text}")


# --- against plain Python ---

values = st.one_of(st.none(), st.integers(-5, 5))


@given(st.lists(st.tuples(values, st.one_of(st.none(), st.text("abé\n", max_size=3)))))
def test_the_rows_dropped_are_those_that_offend(rows):
    table = pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String}, orient="row")
    config = {
        "not_null": ["n"],
        "ranges": {"n": {"min": -2, "max": 3, "exclusive_max": True}},
        "unique": [["n", "s"]],
        "patterns": {"s": "[ab]*"},
        "allowed": {"n": [-3, -2, -1, 0, 1]},
        "checks": {"c": "n <> 1 OR s = 'a'"},
        "on_invalid": "quarantine",
    }
    seen, expected = set(), []
    for n, s in rows:
        first = n is None or s is None or (n, s) not in seen
        seen.add((n, s))
        fits = n is not None and -2 <= n < 3 and n in {-3, -2, -1, 0, 1}
        matches = s is None or re.fullmatch("[ab]*", s) is not None
        if first and fits and matches and (n != 1 or s in ("a", None)):
            expected.append((n, s))
    result = validate(config, table)
    remaining = table if result.table is None else result.table.collect()
    assert remaining.rows() == expected
    assert result.report["invalid_rows"] == len(rows) - len(expected)
    bad = result.side_tables["quarantine"].collect() if result.side_tables else pl.DataFrame()
    assert bad.height == len(rows) - len(expected)
    assert all(bad["_reasons"].to_list()) if bad.height else True
