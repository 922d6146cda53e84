"""filter, deduplicate, fill_missing, sort, passthrough."""

from __future__ import annotations

import datetime as dt
import math

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Result
from tests.unit.operators.attempts import attempt, problems, transform

HOLES = {
    "n": [1, None, 4],
    "f": [math.nan, 1.0, None],
    "s": [None, "b", None],
    "d": [dt.date(2024, 1, 2), None, dt.date(2024, 1, 1)],
    "b": [True, None, False],
}


def failure(config, table) -> StageError:
    with pytest.raises(StageError) as caught:
        transform(config, table)
    return caught.value


# --- filter ---


def test_filter_keeps_rows_where_it_is_true():
    table = {"a": [1, 2, 3, None], "s": ["x", "y", "x", "x"]}
    found = transform({"operation": "filter", "where": "a >= 2 AND s = 'x'"}, table)
    assert found.rows() == [(3, "x")]


def test_filter_may_compare_with_an_aggregate():
    assert transform({"operation": "filter", "where": "a > AVG(a)"}, {"a": [1, 2, 6]})["a"].to_list() == [6]


def test_a_variable_in_a_filter():
    config = {"operation": "filter", "where": "a > ${least}"}
    assert problems(config) == []
    assert attempt(config, {"x": {"a": [1, 5]}}, variables={"least": 3}).collect()["a"].to_list() == [5]


def test_a_filter_that_is_no_condition():
    error = failure({"operation": "filter", "where": "a + 1"}, {"a": [1]})
    assert error.error_class is ErrorClass.CODE
    assert error.message == "where: must be boolean, returns integer: 'a + 1'"


def test_a_filter_is_checked_with_the_definition():
    assert problems({"operation": "filter", "where": "a = = 1"}) == [
        "stages[0].config.where: cannot be parsed as an SQL expression: 'a = = 1'"
    ]
    assert problems({"operation": "filter"}) == ["stages[0].config.where: is required"]


def test_a_filter_does_not_read_files_even_through_a_variable():
    config = {"operation": "filter", "where": "a IN (${query})"}
    with pytest.raises(StageError) as caught:
        attempt(config, {"x": {"a": [1]}}, variables={"query": "SELECT a FROM read_csv('/etc/passwd')"})
    assert caught.value.message.startswith("where: READ_CSV is not allowed in SQL")


# --- deduplicate ---


@pytest.mark.parametrize(
    ("keep", "expected"), [("first", [(2, 1), (1, 2)]), ("last", [(1, 2), (2, 3)]), ("none", [(1, 2)])]
)
def test_deduplicate_keeps_which_and_the_order(keep, expected):
    table = {"k": [2, 1, 2], "v": [1, 2, 3]}
    assert transform({"operation": "deduplicate", "by": "k", "keep": keep}, table).rows() == expected


def test_deduplicate_takes_missing_values_for_equal():
    table = {"x": [None, math.nan, None, math.nan, 1.0]}
    assert transform({"operation": "deduplicate"}, table).height == 3


keys = st.one_of(st.none(), st.integers(-3, 3))


@given(st.lists(st.tuples(keys, keys, st.integers(0, 2))), st.sampled_from(["first", "last", "none"]))
def test_deduplicate_is_pandas_drop_duplicates(rows, keep):
    table = pl.DataFrame(rows, schema={"a": pl.Int64, "b": pl.Int64, "c": pl.Int64}, orient="row")
    found = transform({"operation": "deduplicate", "by": ["a", "b"], "keep": keep}, table)
    frame = pd.DataFrame(rows, columns=["a", "b", "c"], dtype="Int64")
    expected = frame.drop_duplicates(["a", "b"], keep=False if keep == "none" else keep)
    assert found.rows() == [tuple(None if pd.isna(v) else v for v in row) for row in expected.itertuples(index=False)]


@given(st.lists(st.tuples(keys, st.text(max_size=2))))
def test_any_row_of_equal_ones_is_one_of_them(rows):
    table = pl.DataFrame(rows, schema={"a": pl.Int64, "s": pl.String}, orient="row")
    found = transform({"operation": "deduplicate", "by": "a", "keep": "any"}, table)
    assert sorted(found["a"].to_list(), key=str) == sorted({a for a, _ in rows}, key=str)
    assert set(found.rows()) <= set(rows)


# --- fill_missing ---


def fill(**config) -> pl.DataFrame:
    return transform({"operation": "fill_missing", **config}, HOLES)


def test_fill_with_values_keeps_types():
    found = fill(columns={"n": 0, "f": 2, "s": "", "d": "2024-12-31", "b": False})
    assert found.rows() == [
        (1, 2.0, "", dt.date(2024, 1, 2), True),
        (0, 1.0, "b", dt.date(2024, 12, 31), False),
        (4, 2.0, "", dt.date(2024, 1, 1), False),
    ]
    assert found.schema == pl.DataFrame(HOLES).schema


def test_nan_may_count_as_a_value():
    found = fill(columns={"f": 5.0}, nan=False)["f"].to_list()
    assert math.isnan(found[0])
    assert found[1:] == [1.0, 5.0]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("forward", {"n": [1, 1, 4], "f": [None, 1.0, 1.0], "s": [None, "b", "b"]}),
        ("backward", {"n": [1, 4, 4], "f": [1.0, 1.0, None], "s": ["b", "b", None]}),
        ("mean", {"n": [1.0, 2.5, 4.0], "f": [1.0, 1.0, 1.0], "s": HOLES["s"]}),
        ("median", {"n": [1.0, 2.5, 4.0], "f": [1.0, 1.0, 1.0]}),
        ("zero", {"n": [1, 0, 4], "f": [0.0, 1.0, 0.0], "b": HOLES["b"]}),
        ("min", {"n": [1, 1, 4], "d": [dt.date(2024, 1, 2), dt.date(2024, 1, 1), dt.date(2024, 1, 1)]}),
        ("max", {"n": [1, 4, 4], "d": [dt.date(2024, 1, 2), dt.date(2024, 1, 2), dt.date(2024, 1, 1)]}),
    ],
)
def test_fill_by_strategy(strategy, expected):
    found = fill(strategy=strategy)
    assert {name: found[name].to_list() for name in expected} == expected


def test_fill_only_the_fields_named():
    found = fill(strategy="forward", fields=["n"])
    assert found["n"].to_list() == [1, 1, 4]
    assert found["s"].to_list() == HOLES["s"]


def test_a_column_without_values_stays_without_by_a_statistic_and_takes_a_value():
    table = pl.DataFrame({"x": [None, None], "y": [None, None]}, schema={"x": pl.Int64, "y": pl.Null})
    assert transform({"operation": "fill_missing", "strategy": "mean"}, table)["x"].to_list() == [None, None]
    found = transform({"operation": "fill_missing", "columns": {"x": 7, "y": "v"}}, table)
    assert found.rows() == [(7, "v"), (7, "v")]


def test_text_of_few_kinds_is_filled():
    table = pl.DataFrame(
        {"c": pl.Series(["a", None], dtype=pl.Categorical), "e": pl.Series(["a", None], dtype=pl.Enum(["a", "b"]))}
    )
    found = transform({"operation": "fill_missing", "columns": {"c": "new", "e": "b"}}, table)
    assert found.rows() == [("a", "a"), ("new", "b")]
    error = failure({"operation": "fill_missing", "columns": {"e": "c"}}, table)
    assert error.message == "columns.e: 'c' does not fit column 'e', which is categorical"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": "none"}, "columns.n: 'none' does not fit column 'n', which is integer"),
        ({"n": 1.5}, "columns.n: 1.5 does not fit column 'n', which is integer"),
        ({"d": "soon"}, "columns.d: 'soon' does not fit column 'd', which is date"),
        ({"b": 2}, "columns.b: 2 does not fit column 'b', which is boolean"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(columns, message):
    error = failure({"operation": "fill_missing", "columns": columns}, HOLES)
    assert error.error_class is ErrorClass.DATA
    assert error.message == message


def test_a_strategy_that_does_not_apply_is_refused():
    error = failure({"operation": "fill_missing", "strategy": "mean", "fields": ["s"]}, HOLES)
    assert error.message == "strategy 'mean' does not apply to column 's', which is string"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "give either 'columns' or 'strategy'"),
        ({"columns": {"a": 1}, "strategy": "zero"}, "give either 'columns' or 'strategy'"),
        ({"columns": {"a": 1}, "fields": ["a"]}, "'fields' requires 'strategy'"),
    ],
)
def test_fill_definitions_that_do_not_hold(config, message):
    assert problems({"operation": "fill_missing", **config}) == [f"stages[0].config: {message}"]


# --- sort, passthrough ---


def test_sort_by_several_directions_and_nulls():
    table = {"a": [1, None, 2, 1], "b": ["x", "y", "z", "w"]}
    found = transform({"operation": "sort", "by": ["a", "b"], "descending": [True, False], "nulls_last": True}, table)
    assert found.rows() == [(2, "z"), (1, "w"), (1, "x"), (None, "y")]
    assert transform({"operation": "sort", "by": "a"}, table)["a"].to_list() == [None, 1, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_sort_keeps_the_order_of_equal_rows(keys):
    rows = [(*key, position) for position, key in enumerate(keys)]
    table = pl.DataFrame(rows, schema={"k": pl.Int64, "b": pl.Boolean, "position": pl.Int64}, orient="row")
    found = transform({"operation": "sort", "by": ["k", "b"], "descending": [False, True]}, table)
    assert found.rows() == sorted(rows, key=lambda row: (row[0], not row[1]))


def test_sort_keeps_the_order_of_many_equal_rows():
    table = {"k": [i % 5 for i in range(1000)], "one": [1] * 1000, "position": list(range(1000))}
    found = transform({"operation": "sort", "by": ["k", "one"]}, table)
    assert found["position"].to_list() == sorted(range(1000), key=lambda i: i % 5)


def test_one_direction_for_each_column():
    assert problems({"operation": "sort", "by": ["a"], "descending": [True, False]}) == [
        "stages[0].config: 'descending' and 'by' must have the same length, not 2 and 1"
    ]


def test_passthrough_hands_the_table_on():
    assert attempt({"operation": "passthrough"}, {"load-data": HOLES}) == Result(passthrough_stage="load-data")


@pytest.mark.parametrize("operation", ["filter", "sort", "deduplicate", "passthrough", "fill_missing", "aggregate"])
def test_operators_of_one_table_take_one(operation):
    found = problems({"operation": operation, "extra": 1}, ("a", "b"))
    assert f"stages[0].dependencies: '{operation}' takes one input table, found 2; join or concat them first" in found
