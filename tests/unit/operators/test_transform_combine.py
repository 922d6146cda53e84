"""join and concat."""

from __future__ import annotations

import logging

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass, StageError
from tests.unit.operators.attempts import problems, transform

FLIGHTS = {"tail": ["N1", "N2", None, "N9"], "delay": [5, 7, 1, 2]}
PLANES = {"tail": ["N2", "N1", None], "seats": [100, 50, 10]}


def failure(config, tables) -> StageError:
    with pytest.raises(StageError) as caught:
        transform(config, **tables)
    return caught.value


# --- join ---


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("inner", [("N1", 5, 50), ("N2", 7, 100)]),
        ("left", [("N1", 5, 50), ("N2", 7, 100), (None, 1, None), ("N9", 2, None)]),
        ("right", [(7, "N2", 100), (5, "N1", 50), (None, None, 10)]),
        ("full", [("N1", 5, 50), ("N2", 7, 100), (None, 1, None), ("N9", 2, None), (None, None, 10)]),
        ("semi", [("N1", 5), ("N2", 7)]),
        ("anti", [(None, 1), ("N9", 2)]),
    ],
)
def test_join_in_every_way(how, expected):
    found = transform({"operation": "join", "on": "tail", "how": how}, **{"flights": FLIGHTS, "all-planes": PLANES})
    assert found.rows() == expected


def test_cross_join():
    found = transform({"operation": "join", "how": "cross"}, a={"x": [1, 2]}, b={"x": [3]})
    assert found.to_dict(as_series=False) == {"x": [1, 2], "x_right": [3, 3]}


def test_sides_can_be_chosen_and_keys_differ():
    config = {"operation": "join", "left": "b", "left_on": "k", "right_on": "tail", "suffix": "_r"}
    found = transform(config, a={"tail": ["x"], "v": [1]}, b={"k": ["x"], "v": [2]})
    assert found.to_dict(as_series=False) == {"k": ["x"], "v": [2], "v_r": [1]}
    chosen_right = {"operation": "join", "right": "a", "left_on": "k", "right_on": "tail", "suffix": "_r"}
    assert transform(chosen_right, a={"tail": ["x"], "v": [1]}, b={"k": ["x"], "v": [2]}).equals(found)


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=12)


@given(rows, rows, st.sampled_from(["inner", "left", "right", "full"]))
def test_join_is_pandas_merge(left, right, how):
    a = pl.DataFrame(left, schema={"k": pl.Int64, "x": pl.Int64}, orient="row")
    b = pl.DataFrame(right, schema={"k": pl.Int64, "y": pl.Int64}, orient="row")
    found = transform({"operation": "join", "on": "k", "how": how}, a=a, b=b).select("k", "x", "y")
    merged = pd.DataFrame(left, columns=["k", "x"], dtype="Int64").merge(
        pd.DataFrame(right, columns=["k", "y"], dtype="Int64"), on="k", how="outer" if how == "full" else how
    )
    expected = [tuple(None if pd.isna(v) else v for v in row) for row in merged.itertuples(index=False)]
    assert sorted(found.rows(), key=str) == sorted(expected, key=str)
    if how in ("inner", "left"):
        assert found.rows() == expected


def test_types_of_keys_that_differ_are_named():
    tables = {"flights": {"tail": [1]}, "planes": {"tail": ["1"]}}
    error = failure({"operation": "join", "on": "tail"}, tables)
    assert error.error_class is ErrorClass.DATA
    assert error.message == (
        "join keys have different types: 'tail' is Int64 in 'flights', 'tail' is String in 'planes'; "
        "cast one of them first"
    )


def test_an_unknown_key_is_named_with_its_table():
    assert failure({"operation": "join", "on": "tial"}, {"flights": FLIGHTS, "planes": PLANES}).message == (
        "column 'tial' not found in input 'flights' of stage 'here'; did you mean 'tail'? columns: 'tail', 'delay'"
    )
    config = {"operation": "join", "left_on": "tail", "right_on": "number"}
    assert failure(config, {"flights": FLIGHTS, "planes": PLANES}).message == (
        "column 'number' not found in input 'planes' of stage 'here'; columns: 'tail', 'seats'"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("1:m", "keys 'k' are not unique in 'a', but 'validate: 1:m' requires it: 1 repeated, such as k=2 (3 times)"),
        ("1:1", "keys 'k' are not unique in 'a', but 'validate: 1:1' requires it: 1 repeated, such as k=2 (3 times)"),
    ],
)
def test_keys_that_must_be_unique(wanted, message):
    tables = {"a": {"k": [1, 2, 2, 2, None, None]}, "b": {"k": [2], "v": [0]}}
    assert failure({"operation": "join", "on": "k", "validate": wanted}, tables).message == message
    assert transform({"operation": "join", "on": "k", "validate": "m:1"}, **tables).height == 3


def test_a_column_that_would_come_twice_is_refused():
    tables = {"a": {"k": [1], "v": [1], "v_right": [1]}, "b": {"k": [1], "v": [1]}}
    assert failure({"operation": "join", "on": "k"}, tables).message == (
        "column with name 'v_right' already exists; choose a 'suffix' other than '_right'"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"on": "k", "left": "loda-data"},
            ".left: 'loda-data' is not a dependency of this stage; did you mean 'load-data'?",
        ),
        ({"on": "k", "right": "x"}, ".right: 'x' is not a dependency of this stage; dependencies are 'load-data', 'b'"),
        ({"on": "k", "left": "b", "right": "b"}, ".right: is the same table as 'left', 'b'"),
        ({}, ": give either 'on' or both 'left_on' and 'right_on'"),
        ({"left_on": "k"}, ": give either 'on' or both 'left_on' and 'right_on'"),
        ({"on": "k", "left_on": "k", "right_on": "k"}, ": give either 'on' or both 'left_on' and 'right_on'"),
        ({"left_on": ["k", "l"], "right_on": "k"}, ": 'left_on' has 2 columns, 'right_on' 1"),
        ({"how": "cross", "on": "k"}, ": a cross join takes no keys"),
        (
            {"on": "k", "how": "outer"},
            ".how: must be one of 'inner', 'left', 'right', 'full', 'semi', 'anti' or 'cross',",
        ),
    ],
)
def test_join_definitions_that_do_not_hold(config, message):
    (problem,) = problems({"operation": "join", **config}, ("load-data", "b"))
    assert problem.startswith(f"stages[0].config{message}")


def test_a_join_needs_two_tables():
    assert problems({"operation": "join", "on": "k"}, ("a",)) == [
        "stages[0].dependencies: 'join' needs 2 input tables, found 1"
    ]


# --- concat ---


def test_vertical_goes_by_name_in_the_order_of_dependencies():
    found = transform(
        {"operation": "concat", "stage_column": "year"},
        **{"2025": {"a": [1], "b": ["x"]}, "2026": {"b": ["y"], "a": [2]}},
    )
    assert found.to_dict(as_series=False) == {"a": [1, 2], "b": ["x", "y"], "year": ["2025", "2026"]}


def test_diagonal_fills_with_null():
    found = transform({"operation": "concat", "how": "diagonal"}, x={"a": [1]}, y={"b": ["y"]})
    assert found.rows() == [(1, None), (None, "y")]


def test_horizontal_puts_columns_side_by_side():
    found = transform({"operation": "concat", "how": "horizontal"}, x={"a": [1, 2]}, y={"b": ["y", "z"]})
    assert found.rows() == [(1, "y"), (2, "z")]


@pytest.mark.parametrize("how", ["vertical", "diagonal"])
def test_relaxed_finds_a_common_type(how):
    found = transform({"operation": "concat", "how": how, "relaxed": True}, x={"a": [1]}, y={"a": [1.5]})
    assert found["a"].to_list() == [1.0, 1.5]


@pytest.mark.parametrize(
    ("config", "tables", "message"),
    [
        (
            {},
            {"x": {"a": [1], "b": [1]}, "y": {"a": [1], "c": [1], "d": [1]}},
            "the table of stage 'y' differs from that of 'x': it lacks 'b' and also has 'c', 'd'; "
            "'how: diagonal' allows it",
        ),
        (
            {},
            {"x": {"a": [1]}, "y": {"a": ["1"]}},
            "column 'a' is Int64 in stage 'x', String in stage 'y'; 'relaxed: true' finds a common type",
        ),
        (
            {"how": "diagonal"},
            {"x": {"a": [1]}, "y": {"b": [1]}, "z": {"b": ["1"]}},
            "column 'b' is Int64 in stage 'y', String in stage 'z'; 'relaxed: true' finds a common type",
        ),
        ({"stage_column": "a"}, {"x": {"a": [1]}}, "stage_column: the table of stage 'x' already has a column 'a'"),
        (
            {"how": "horizontal"},
            {"x": {"a": [1]}, "y": {"a": [2]}},
            "column 'a' is in stage 'x' and in stage 'y'; rename one of them",
        ),
        (
            {"how": "horizontal"},
            {"x": {"a": [1]}, "y": {"b": [2, 3]}},
            "'how: horizontal' requires equal row counts, found 'x' 1, 'y' 2",
        ),
    ],
)
def test_tables_that_do_not_go_together(config, tables, message):
    error = failure({"operation": "concat", **config}, tables)
    assert error.error_class is ErrorClass.DATA
    assert error.message == message


def test_types_without_a_common_one():
    error = failure({"operation": "concat", "relaxed": True}, {"x": {"a": [[1]]}, "y": {"a": [{"b": 1}]}})
    assert error.message.startswith("the tables do not match: ")


@pytest.mark.parametrize("how", ["vertical", "diagonal", "horizontal"])
def test_a_table_without_columns_is_left_out(how, caplog):
    with caplog.at_level(logging.WARNING):
        found = transform({"operation": "concat", "how": how}, x=pl.DataFrame(), y={"a": [1]})
    assert found.to_dict(as_series=False) == {"a": [1]}
    assert caplog.messages == ["input 'x' of stage 'here' is empty: it has no columns and no rows"]
    assert transform({"operation": "concat", "how": how}, x=pl.DataFrame()).shape == (0, 0)


def test_stage_column_and_horizontal_exclude_each_other():
    assert problems({"operation": "concat", "how": "horizontal", "stage_column": "s"}) == [
        "stages[0].config: 'stage_column' cannot be used with 'how: horizontal': each row comes from all tables"
    ]
