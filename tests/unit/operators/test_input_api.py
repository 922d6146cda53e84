from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators.base import Access, StageContext
from flexiroaster.operators.inputs.json import ApiConfig, ApiInput
from flexiroaster.operators.inputs.type_inference import Shape, series, table_of
from flexiroaster.operators.registry import build, check_stage, find


def run(config: dict[str, Any], variables: dict[str, Any] | None = None) -> pl.DataFrame:
    operator = build(StageType.INPUT, {"source": "api", **config}, {})
    context = StageContext("e", "p", "s", 1, {}, Path(), variables=variables or {})
    table = operator.run(context)
    assert isinstance(table, pl.DataFrame)
    return table


def test_it_is_registered() -> None:
    assert find("input.api") is ApiInput


def test_records_of_the_config_go_before_those_of_the_call() -> None:
    records = [{"id": 1}, {"id": 2}]
    assert run({"endpoint": "/data/users", "data": records}, {"records": [{"id": 9}]})["id"].to_list() == [1, 2]
    assert run({}, {"records": [{"id": 9}]})["id"].to_list() == [9]
    assert run({"data": []}, {"records": [{"id": 9}]}).height == 0


def test_without_records_the_table_is_empty_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="flexiroaster.stage"):
        assert run({}).shape == (0, 0)
    assert caplog.messages == [
        "no records were passed with the call (config.data or variable 'records'): the table is empty"
    ]


def test_a_variable_that_is_no_list_of_objects() -> None:
    for records, message in (
        ([{"id": 1}, 7], "variable 'records': record [1] is a number, not an object"),
        ([None], "variable 'records': record [0] is null, not an object"),
        ({"id": 1}, "variable 'records': expected an array of objects, found an object"),
        ("x", "variable 'records': expected an array of objects, found a string"),
    ):
        with pytest.raises(StageError) as caught:
            run({}, {"records": records})
        assert (caught.value.message, caught.value.error_class) == (message, ErrorClass.DATA)


def test_a_config_that_is_no_list_of_objects_is_found_when_the_definition_is_checked() -> None:
    stage = Stage(id="s", type=StageType.INPUT, config={"source": "api", "data": [{"id": 1}, 7]})
    (problem,) = check_stage(0, stage, {}, Access())
    assert problem.path == "stages[0].config.data[1]"
    assert list(check_stage(0, Stage(id="s", type=StageType.INPUT, config={"source": "api"}), {}, Access())) == []


def test_mixed_columns_and_missing_keys() -> None:
    records = [
        {"mixed": 1, "number": 1, "nothing": None, "first": True},
        {"mixed": "a", "number": 2.5, "late": {"k": 1}},
        {"mixed": None, "nothing": None},
        {"mixed": 2.0, "late": {"k": 2, "m": "x"}, "number": None},
        {"mixed": {"k": [1, None]}, "first": False},
    ]
    table = run({"data": records})
    assert dict(table.schema) == {
        "mixed": pl.String,
        "number": pl.Float64,
        "nothing": pl.Null,
        "first": pl.Boolean,
        "late": pl.Struct({"k": pl.Int64, "m": pl.String}),
    }
    assert table["mixed"].to_list() == ["1", "a", None, "2.0", '{"k":[1,null]}']
    assert table["number"].to_list() == [1.0, 2.5, None, None, None]
    assert table["late"].to_list() == [None, {"k": 1, "m": None}, None, {"k": 2, "m": "x"}, None]
    assert table["first"].to_list() == [True, None, None, None, False]


def test_nested_values() -> None:
    records = [
        {"list": [1, 2.5], "objects": [{"a": 1}, {"b": "x"}], "odd": [1, "x", None], "empty": {}, "void": []},
        {"list": [], "objects": None, "odd": [{"k": 1}], "empty": {}, "void": []},
    ]
    table = run({"data": records})
    assert dict(table.schema) == {
        "list": pl.List(pl.Float64),
        "objects": pl.List(pl.Struct({"a": pl.Int64, "b": pl.String})),
        "odd": pl.List(pl.String),
        "empty": pl.String,
        "void": pl.List(pl.Null),
    }
    assert table["list"].to_list() == [[1.0, 2.5], []]
    assert table["objects"].to_list() == [[{"a": 1, "b": None}, {"a": None, "b": "x"}], None]
    assert table["odd"].to_list() == [["1", "x", None], ['{"k":1}']]
    assert table["empty"].to_list() == ["{}", "{}"]


def test_a_mapping_with_many_keys_stays_json() -> None:
    table = run({"data": [{"counts": {f"k{i}": i for i in range(300)}}]})
    assert table.schema == {"counts": pl.String}
    assert table["counts"][0].startswith('{"k0":0,"k1":1,')


def test_values_nested_too_deeply_stay_json() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"k": deep}
    value = run({"data": [{"deep": deep}]})["deep"][0]
    for _ in range(15):
        value = value["k"]
    assert isinstance(value["k"], str)


def test_large_integers() -> None:
    table = run({"data": [{"a": 2**63, "b": 2**80, "c": -(2**63)}]})
    assert dict(table.schema) == {"a": pl.UInt64, "b": pl.String, "c": pl.Int64}
    assert table.row(0) == (2**63, str(2**80), -(2**63))
    mixed = run({"data": [{"a": [2**80]}, {"a": {"k": -(2**80)}}]})
    assert mixed["a"].to_list() == [f"[{2**80}]", f'{{"k":-{2**80}}}']


def test_values_of_python_that_are_not_of_json() -> None:
    records = [
        {"n": Decimal("1.50"), "d": date(2026, 1, 1), "t": datetime(2026, 1, 1, tzinfo=UTC)},
        {"n": 2, "d": datetime(2026, 1, 2, 3), "t": datetime(2026, 1, 1)},
    ]
    table = table_of(records)
    assert table.rows() == [
        (Decimal("1.50"), datetime(2026, 1, 1), "2026-01-01T00:00:00+00:00"),
        (Decimal("2.00"), datetime(2026, 1, 2, 3), "2026-01-01T00:00:00"),
    ]


def test_a_value_that_no_column_can_hold() -> None:
    with pytest.raises(StageError, match=r"^column 'x': int too large to convert to float$"):
        table_of([{"x": 10**400}, {"x": 1.5}])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=8))
def test_any_json_makes_a_column_of_as_many_values_with_the_same_nulls(values: list[Any]) -> None:
    shape = Shape()
    shape.observe(values)
    column = series("x", values, shape)
    assert column.dtype == shape.dtype()
    assert [v is None for v in column.to_list()] == [v is None for v in values]


@given(st.lists(json_values, max_size=6), st.lists(json_values, max_size=6))
def test_a_shape_widens_the_same_in_one_step_or_in_two(one: list[Any], other: list[Any]) -> None:
    together, apart = Shape(), Shape()
    together.observe(one + other)
    apart.observe(one)
    apart.observe(other)
    assert together.dtype() == apart.dtype()


def test_the_config_refuses_unknown_fields() -> None:
    stage = Stage(id="s", type=StageType.INPUT, config={"source": "api", "dat": []})
    (problem,) = check_stage(0, stage, {}, Access())
    assert (problem.path, problem.message) == ("stages[0].config.dat", "is not a known field; did you mean 'data'?")
    assert ApiConfig().data is None
