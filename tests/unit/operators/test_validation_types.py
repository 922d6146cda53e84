"""rules: types of columns, and their conversion."""

from __future__ import annotations

import datetime as dt
import math

import polars as pl
import pytest

from tests.unit.operators.attempts import validate
from tests.unit.operators.validations import failure, found, message, valid


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 2], "integer"),
        ([1.0, None], "integer"),
        ([1, 2], "Int8"),
        ([1, 2], "number"),
        (["a"], "string"),
        ([None, None], "date"),
        ([True], "boolean"),
        ([dt.datetime(2024, 1, 1)], "datetime"),
    ],
)
def test_types_that_do(values, wanted):
    assert valid({"schema": {"x": wanted}}, {"x": values})


def test_a_column_of_text_without_values_has_any_type():
    table = pl.DataFrame({"x": [None, None]}, schema={"x": pl.String})
    assert valid({"schema": {"x": "integer"}, "ranges": {"x": {"min": 1}}}, table)
    assert message({"schema": {"x": "integer"}, "not_null": ["x"]}, table) == "2 of 2 rows invalid: x: not_null: 2 rows"


@pytest.mark.parametrize(
    ("values", "wanted", "text"),
    [
        (["1", "2"], "integer", "column 'x' is string, expected integer; 'coerce: true' converts it"),
        ([1, 2], "string", "column 'x' is integer, expected string; 'coerce: true' converts it"),
        ([True], "integer", "column 'x' is boolean, expected integer; 'coerce: true' converts it"),
        ([dt.date(2024, 1, 1)], "integer", "column 'x' is date, expected integer"),
        ([[1]], "string", "column 'x' is List(Int64), expected string"),
        (
            [dt.datetime(2024, 1, 1)],
            "datetime[UTC]",
            "column 'x' is datetime, expected datetime[UTC]; 'coerce: true' converts it",
        ),
    ],
)
def test_types_that_do_not(values, wanted, text):
    error = failure({"schema": {"x": wanted}, "on_invalid": "drop"}, {"x": values})
    assert error.message == f"the table is invalid: {text}"
    (rule,) = error.details["rules"]
    assert (rule["rule"], rule["column"], rule["count"], rule["detail"]) == ("type", "x", len(values), text)


def test_fractions_are_no_integers_row_by_row():
    assert found({"schema": {"x": "integer"}}, {"x": [1.0, 1.5, math.nan, None]}) == [("type", "x", 2, [1.5, "nan"])]
    assert found({"schema": {"x": "Int8"}}, {"x": [1, 300]}) == [("type", "x", 1, [300])]


def test_coerce_converts_and_hands_on_the_new_table():
    table = {"id": ["1", "2"], "when": ["2024-01-01", None], "name": ["a", "b"]}
    result = validate({"schema": {"id": "integer", "when": "date", "name": "string"}, "coerce": True}, table)
    assert result.passthrough_stage is None
    assert result.table.collect().schema == {"id": pl.Int64, "when": pl.Date, "name": pl.String}
    assert result.report["valid"]


def test_coerce_leaves_alone_what_fits():
    assert valid({"schema": {"id": "integer"}, "coerce": True}, {"id": pl.Series([1], dtype=pl.Int8)})


def test_coerce_finds_values_that_do_not_fit_and_rules_see_the_new_ones():
    table = {"age": ["36", "x", "-1"], "n": [1, 2, 3]}
    config = {"schema": {"age": "integer"}, "coerce": True, "ranges": {"age": {"min": 0}}, "checks": {"c": "age < 40"}}
    assert message(config, table) == (
        "2 of 3 rows invalid: age: type (integer): 1 row, such as 'x'; age: range (min 0): 1 row, such as -1"
    )
    result = validate({**config, "on_invalid": "quarantine"}, table)
    assert result.table.collect().to_dict(as_series=False) == {"age": [36], "n": [1]}
    assert result.side_tables["quarantine"].collect().rows() == [
        ("x", 2, "age: type (integer)"),
        ("-1", 3, "age: range (min 0)"),
    ]


def test_coerce_gives_a_type_to_a_column_without_any():
    table = pl.DataFrame({"x": [None]}, schema={"x": pl.Null})
    result = validate({"schema": {"x": "date"}, "coerce": True}, table)
    assert result.table.collect().schema == {"x": pl.Date}


def test_types_that_cannot_be_coerced_fail():
    assert message({"schema": {"x": "date"}, "coerce": True, "on_invalid": "drop"}, {"x": [1]}) == (
        "the table is invalid: column 'x' is integer, expected date"
    )
