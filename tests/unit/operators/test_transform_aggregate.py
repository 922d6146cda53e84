"""aggregate."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass, StageError
from tests.unit.operators.attempts import problems, transform

TABLE = {"k": ["b", "a", "b", None], "x": [1.0, 2.0, None, 4.0], "y": [1, 2, 3, 4], "s": ["p", "q", "q", None]}


def aggregate(aggregations, by=(), table=TABLE) -> pl.DataFrame:
    return transform({"operation": "aggregate", "by": list(by), "aggregations": aggregations}, table)


def failure(aggregations, by=()) -> StageError:
    with pytest.raises(StageError) as caught:
        aggregate(aggregations, by)
    return caught.value


def test_groups_are_sorted_by_their_keys():
    found = aggregate({"n": "COUNT(*)", "rate": "SUM(x) / COUNT(y)", "least": "MIN(s)"}, ["k"])
    assert found.columns == ["k", "n", "rate", "least"]
    assert found.rows() == [(None, 1, 4.0, None), ("a", 1, 2.0, "q"), ("b", 2, 0.5, "p")]


def test_without_groups_the_whole_table_is_one():
    assert aggregate({"n": "COUNT(*)", "x": "AVG(x)"}).rows() == [(4, pytest.approx(7 / 3))]


def test_a_table_without_rows_has_a_whole_but_no_groups():
    empty = pl.DataFrame(schema={"k": pl.String, "x": pl.Float64})
    assert aggregate({"n": "COUNT(*)"}, table=empty).rows() == [(0,)]
    assert aggregate({"n": "COUNT(*)"}, ["k"], empty).rows() == []


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("mean", 7 / 3),
        ("sum", 7.0),
        ("min", 1.0),
        ("max", 4.0),
        ("median", 2.0),
        ("std", 1.5275252316519468),
        ("count", 3),
        ("n_unique", 3),
        ("first", 1.0),
        ("last", 4.0),
    ],
)
def test_the_short_form(function, expected):
    assert aggregate({"v": {"column": "x", "function": function}}).item() == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1e6, 1e6)), min_size=1), st.floats(0, 1))
def test_quantiles_are_pandas(rows, q):
    table = pl.DataFrame(rows, schema={"k": pl.String, "x": pl.Float64}, orient="row")
    found = aggregate({"q": {"column": "x", "function": "quantile", "quantile": q}}, ["k"], table)
    expected = pd.DataFrame(rows, columns=["k", "x"]).groupby("k")["x"].quantile(q)
    assert found["k"].to_list() == expected.index.to_list()
    assert found["q"].to_list() == pytest.approx(expected.to_list(), abs=1e-6)


def test_a_value_for_each_row_is_no_aggregate():
    error = failure({"n": "x + 1"}, ["k"])
    assert error.error_class is ErrorClass.CODE
    assert error.message == (
        "aggregations.n: returns a value for each row, not for each group: 'x + 1'; wrap it, as in SUM(...)"
    )


def test_functions_of_numbers_need_numbers():
    error = failure({"n": {"column": "s", "function": "mean"}})
    assert error.error_class is ErrorClass.DATA
    assert error.message == "aggregations.n: mean needs numbers, column 's' is string"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"aggregations": {}}, ".aggregations: must not be empty"),
        ({"aggregations": {"n": "SUM("}}, ".aggregations.n: cannot be parsed as an SQL expression: 'SUM('"),
        ({"by": ["n"], "aggregations": {"n": "COUNT(*)"}}, ": 'n' is both in 'by' and the name of an aggregation"),
    ],
)
def test_definitions_that_do_not_hold(config, message):
    assert problems({"operation": "aggregate", **config}) == [f"stages[0].config{message}"]


@pytest.mark.parametrize("short", [{"function": "quantile"}, {"function": "sum", "quantile": 0.5}])
def test_quantile_goes_with_its_function(short):
    found = problems({"operation": "aggregate", "aggregations": {"n": {"column": "x", **short}}})
    assert any(
        "'function: quantile' requires 'quantile' (0..1); other functions do not accept it" in text for text in found
    )
