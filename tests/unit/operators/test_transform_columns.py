"""select, rename, cast, derive."""

from __future__ import annotations

import datetime as dt
import math

import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from tests.unit.operators.attempts import attempt, problems, transform

TABLE = {"id": [1, 2], "name": ["a", "b"], "größe": [1.5, None]}
BLANK = pl.DataFrame()


def failure(config, table=TABLE) -> StageError:
    with pytest.raises(StageError) as caught:
        transform(config, table)
    return caught.value


@pytest.mark.parametrize(
    "config",
    [
        {"operation": "select", "columns": ["x"]},
        {"operation": "rename", "columns": {"x": "y"}},
        {"operation": "cast", "columns": {"x": "date"}},
        {"operation": "derive", "columns": {"y": "x + 1"}},
        {"operation": "filter", "where": "x > 1"},
        {"operation": "sort", "by": "x"},
        {"operation": "deduplicate", "by": "x"},
        {"operation": "fill_missing", "columns": {"x": 1}},
        {"operation": "aggregate", "by": "x", "aggregations": {"n": "COUNT(*)"}},
    ],
)
def test_a_table_without_columns_is_handed_on(config):
    assert transform(config, BLANK).shape == (0, 0)


@pytest.mark.parametrize(
    "config",
    [
        {"operation": "select", "columns": ["nam"]},
        {"operation": "select", "exclude": ["nam"]},
        {"operation": "rename", "columns": {"nam": "y"}},
        {"operation": "cast", "columns": {"nam": "string"}},
        {"operation": "derive", "columns": {"y": "nam || 'x'"}},
        {"operation": "filter", "where": "nam = 'x'"},
        {"operation": "sort", "by": "nam"},
        {"operation": "deduplicate", "by": "nam"},
        {"operation": "fill_missing", "columns": {"nam": 1}},
        {"operation": "aggregate", "by": "nam", "aggregations": {"n": "COUNT(*)"}},
        {"operation": "aggregate", "aggregations": {"n": "MAX(nam)"}},
        {"operation": "aggregate", "aggregations": {"n": {"column": "nam", "function": "max"}}},
    ],
)
def test_an_unknown_column_is_named_with_the_nearest_and_all_there_are(config):
    error = failure(config)
    assert error.error_class is ErrorClass.DATA
    assert error.message == (
        "column 'nam' not found in input of stage 'here'; did you mean 'name'? columns: 'id', 'name', 'größe'"
    )


def test_select_keeps_the_order_given():
    assert transform({"operation": "select", "columns": ["größe", "id"]}, TABLE).columns == ["größe", "id"]


def test_exclude_leaves_out():
    assert transform({"operation": "select", "exclude": ["name"]}, TABLE).columns == ["id", "größe"]


def test_several_unknown_columns_are_all_named():
    message = failure({"operation": "select", "columns": ["x", "id", "y"]}).message
    assert message == "columns 'x', 'y' not found in input of stage 'here'; columns: 'id', 'name', 'größe'"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"columns": ["id"], "exclude": ["name"]}, "config: give either 'columns' or 'exclude'"),
        ({}, "config: give either 'columns' or 'exclude'"),
        ({"columns": ["id", "name", "id"]}, "config.columns: names must be unique, found 'id' more than once"),
        ({"columns": []}, "config.columns: must not be empty"),
        ({"column": ["id"]}, "config.column: is not a known field; did you mean 'columns'?"),
    ],
)
def test_select_definitions_that_do_not_hold(config, message):
    assert f"stages[0].{message}" in problems({"operation": "select", **config})


def test_rename_can_swap():
    found = transform({"operation": "rename", "columns": {"id": "name", "name": "id"}}, TABLE)
    assert found.columns == ["name", "id", "größe"]
    assert found["name"].to_list() == [1, 2]


def test_rename_does_not_cover_another_column():
    assert failure({"operation": "rename", "columns": {"id": "name"}}).message == (
        "cannot rename 'id' to 'name': input of stage 'here' already has a column of that name"
    )


def test_rename_definitions_that_do_not_hold():
    assert problems({"operation": "rename", "columns": {"a": "x", "b": "x"}}) == [
        "stages[0].config: names must be unique, found 'x' more than once"
    ]
    assert problems({"operation": "rename", "columns": {"a": ""}}) == ["stages[0].config: a new name must not be empty"]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["1", " 2 ", "3.0", "1e3", None], "integer", [1, 2, 3, 1000, None]),
        (["9007199254740993"], "integer", [9007199254740993]),
        ([1.0, 2.0, None], "integer", [1, 2, None]),
        ([True, False, None], "integer", [1, 0, None]),
        (["1.5", " 2 "], "number", [1.5, 2.0]),
        (["Yes", "no", "TRUE", "f", "1", " 0 "], "boolean", [True, False, True, False, True, False]),
        ([0, 1, None], "boolean", [False, True, None]),
        ([1.0, 2.5], "string", ["1.0", "2.5"]),
        ([True, None], "string", ["true", None]),
        ([dt.date(2024, 2, 29)], "string", ["2024-02-29"]),
        ([" 2024-02-29", "2024-02-29T00:00:00"], "date", [dt.date(2024, 2, 29)] * 2),
        ([dt.datetime(2024, 2, 29, 23, 59)], "date", [dt.date(2024, 2, 29)]),
        (
            ["2024-02-29", "2024-02-29 01:02", "2024-02-29T01:02:03.5"],
            "datetime",
            [dt.datetime(2024, 2, 29), dt.datetime(2024, 2, 29, 1, 2), dt.datetime(2024, 2, 29, 1, 2, 3, 500000)],
        ),
        (
            ["2024-02-29T01:02:03Z", "2024-02-29 01:02:03+02:00", "2024-02-29"],
            "datetime[UTC]",
            [
                dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC),
                dt.datetime(2024, 2, 28, 23, 2, 3, tzinfo=dt.UTC),
                dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
            ],
        ),
        (["01:02:03", "23:59"], "time", [dt.time(1, 2, 3), dt.time(23, 59)]),
        ([None, None], "date", [None, None]),
        (["a", "b"], "categorical", ["a", "b"]),
    ],
)
def test_cast_reads_what_files_hold(values, dtype, expected):
    found = transform({"operation": "cast", "columns": {"x": dtype}}, {"x": values})["x"]
    assert found.to_list() == expected


def test_cast_to_decimal_and_from_categorical():
    table = pl.DataFrame({"c": pl.Series(["1.50"], dtype=pl.Categorical), "b": [True]})
    found = transform({"operation": "cast", "columns": {"c": "decimal(5,2)", "b": "decimal(3,1)"}}, table)
    assert found.schema == {"c": pl.Decimal(5, 2), "b": pl.Decimal(3, 1)}
    assert [str(value) for value in found.row(0)] == ["1.50", "1.0"]


def test_local_times_of_a_zone_are_kept_and_impossible_ones_refused():
    table = {"x": [dt.datetime(2024, 7, 1, 12), dt.datetime(2024, 3, 31, 2, 30)]}  # 02:30 was skipped that night
    found = transform({"operation": "cast", "columns": {"x": "datetime[Europe/Berlin]"}, "on_error": "null"}, table)
    assert found["x"].dt.convert_time_zone("UTC").to_list() == [dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC), None]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (["1", "x", "y", "x", "z", "w"], "integer", "5 values do not fit integer, such as 'x', 'y', 'z'"),
        ([1.5, math.nan, 2.0], "integer", "2 values do not fit integer, such as 1.5, nan"),
        ([1, 300, -1], "UInt8", "2 values do not fit UInt8, such as 300, -1"),
        ([0, 2], "boolean", "1 value does not fit boolean, such as 2"),
        (["2024-02-30", ""], "date", "2 values do not fit date, such as '2024-02-30', ''"),
        (
            ["2024-01-01T00:00:00+02:00"],
            "datetime",
            "1 value does not fit datetime, such as '2024-01-01T00:00:00+02:00'",
        ),
    ],
)
def test_cast_names_column_target_count_and_values(values, dtype, message):
    error = failure({"operation": "cast", "columns": {"x": dtype}}, {"x": values})
    assert error.error_class is ErrorClass.DATA
    assert error.message == f"column 'x': {message}"


def test_cast_names_every_column_that_does_not_fit():
    error = failure({"operation": "cast", "columns": {"x": "integer", "y": "date"}}, {"x": ["a"], "y": ["b"]})
    assert error.message == (
        "column 'x': 1 value does not fit integer, such as 'a'; column 'y': 1 value does not fit date, such as 'b'"
    )


def test_cast_makes_misfits_null_when_told():
    found = transform({"operation": "cast", "columns": {"x": "integer"}, "on_error": "null"}, {"x": ["1", "x", None]})
    assert found["x"].to_list() == [1, None, None]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([[1]], "integer", "cannot cast column 'x' from List(Int64) to integer"),
        ([1], "date", "cannot cast column 'x' from integer to date"),
        ([dt.date(2024, 1, 1)], "integer", "cannot cast column 'x' from date to integer"),
        ([dt.timedelta(1)], "string", "cannot cast column 'x' from duration to string"),
    ],
)
def test_types_that_have_nothing_to_do_with_another_are_refused(values, dtype, message):
    assert failure({"operation": "cast", "columns": {"x": dtype}, "on_error": "null"}, {"x": values}).message == message


def test_an_unknown_type_is_a_problem_of_the_definition():
    assert problems({"operation": "cast", "columns": {"x": "integr"}})[0].startswith(
        "stages[0].config.columns.x: unknown type 'integr'; did you mean 'integer' or 'int'"
    )


def test_derive_uses_earlier_columns_and_may_replace():
    config = {"operation": "derive", "columns": {"double": "id * 2", "quad": "double * 2", "name": "UPPER(name)"}}
    found = transform(config, TABLE)
    assert found.columns == ["id", "name", "größe", "double", "quad"]
    assert found.row(1) == (2, "B", None, 4, 8)


def test_derive_knows_whole_table_aggregates_quoted_names_and_case():
    config = {
        "operation": "derive",
        "columns": {
            "share": "id / SUM(id)",
            "big": 'COALESCE("größe", 0) > 1',
            "kind": "CASE WHEN id = 1 THEN 'one' END",
        },
    }
    found = transform(config, TABLE)
    assert found["share"].to_list() == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert found["big"].to_list() == [True, False]
    assert found["kind"].to_list() == ["one", None]


def test_derive_is_checked_with_the_definition():
    config = {"operation": "derive", "columns": {"a": "id +", "b": "nofunc(id)", "c": "id"}}
    assert problems(config) == [
        "stages[0].config.columns.a: cannot be parsed as an SQL expression: 'id +'",
        "stages[0].config.columns.b: unsupported function 'nofunc': 'nofunc(id)'",
    ]


def test_an_expression_waits_for_its_variable():
    config = {"operation": "derive", "columns": {"a": "id ${operator} 1"}}
    assert problems(config) == []
    found = attempt(config, {"load-data": TABLE}, variables={"operator": "+"})
    assert found.table.collect()["a"].to_list() == [2, 3]


def test_types_that_do_not_go_together_are_a_matter_of_the_expression():
    error = failure({"operation": "derive", "columns": {"y": "SUM(name)"}})
    assert error.error_class is ErrorClass.CODE
    assert error.message == "columns.y: `sum` operation not supported for dtype `str`: 'SUM(name)'"


def test_python_is_not_evaluated():
    (problem,) = problems({"operation": "derive", "columns": {"x": "__import__('os').system('true')"}})
    assert problem.startswith("stages[0].config.columns.x: ")
