"""normalize."""

from __future__ import annotations

import logging
import math
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import ErrorClass, StageError
from tests.unit.operators.attempts import attempt, problems, transform

NORMALIZE = {"operation": "normalize"}
MIXED = {
    "name": ["  Ada  Lovelace ", "e\u0301mile", None],
    "age": [20, 40, None],
    "member": [True, None, False],
    "score": [1.0, math.nan, 3.0],
}
numbers = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


@pytest.mark.parametrize("config", [NORMALIZE, {**NORMALIZE, "fields": ["name", "age"]}])
def test_mixed_types_run(config):
    found = transform(config, MIXED)
    assert found["name"].to_list() == ["Ada Lovelace", "émile", None]
    assert found["age"].to_list() == [0.0, 1.0, None]
    assert found["member"].to_list() == MIXED["member"]


@pytest.mark.parametrize("config", [NORMALIZE, {**NORMALIZE, "fields": ["name", "age"]}])
def test_a_table_without_columns_is_handed_on_with_a_warning(config, caplog):
    with caplog.at_level(logging.WARNING):
        assert transform(config, pl.DataFrame()).shape == (0, 0)
    assert caplog.messages == ["the input of stage 'here' is empty: it has no columns and no rows"]


def test_columns_without_rows_keep_their_names():
    schema = {"name": pl.String, "age": pl.Int64}
    assert transform(NORMALIZE, pl.DataFrame(schema=schema)).schema == {"name": pl.String, "age": pl.Float64}


def test_only_the_fields_named_change():
    found = transform({**NORMALIZE, "fields": ["age"]}, MIXED)
    assert found["name"].to_list() == MIXED["name"]
    assert found["score"].to_list()[::2] == [1.0, 3.0]


def test_nan_infinity_and_null_stay_and_do_not_count():
    found = transform(NORMALIZE, {"x": [1.0, math.nan, 3.0, None, math.inf, -math.inf]})["x"].to_list()
    assert found[0] == 0.0
    assert math.isnan(found[1])
    assert found[2:] == [1.0, None, math.inf, -math.inf]


@pytest.mark.parametrize("method", ["min_max", "z_score", "robust"])
def test_a_constant_column_becomes_zero(method):
    found = transform({**NORMALIZE, "method": method}, {"x": [0.1, 0.1, 0.1, None], "n": [None, None, None, None]})
    assert found["x"].to_list() == [0.0, 0.0, 0.0, None]
    assert found["n"].to_list() == [None] * 4


def test_decimals_and_small_integers_are_scaled():
    table = pl.DataFrame({"d": ["1.50", "2.00"], "i": [-128, 127]}).cast({"d": pl.Decimal(5, 2), "i": pl.Int8})
    assert transform(NORMALIZE, table).rows() == [(0.0, 0.0), (1.0, 1.0)]


def test_robust_keeps_differences_where_the_middle_half_is_constant():
    found = transform({**NORMALIZE, "method": "robust"}, {"x": [5, 5, 5, 5, 9]})
    assert found["x"].to_list() == [0.0, 0.0, 0.0, 0.0, 4.0]


@pytest.mark.parametrize("method", ["min_max", "z_score", "robust"])
def test_numbers_near_the_smallest_float_keep_their_order(method):
    found = transform({**NORMALIZE, "method": method}, pl.DataFrame({"x": [0.0, 5e-324, 2.2250738585e-313]}))[
        "x"
    ].to_list()
    assert all(math.isfinite(value) for value in found)
    assert found == sorted(found)
    assert found[0] < found[2] or method == "z_score", "their variance is 0 in floats"


@given(st.lists(st.one_of(st.none(), numbers), min_size=1))
def test_min_max_stays_between_zero_and_one_and_can_be_undone(values):
    found = transform(NORMALIZE, pl.DataFrame({"x": values}, schema={"x": pl.Float64}))["x"].to_list()
    known = [value for value in values if value is not None]
    assert [value is None for value in found] == [value is None for value in values]
    assert all(0.0 <= value <= 1.0 for value in found if value is not None)
    if known:
        low, high = min(known), max(known)
        undone = [value * (high - low) + low for value in found if value is not None]
        assert np.allclose(undone, known, atol=(high - low) * 1e-12, rtol=1e-12)


@given(st.lists(numbers, min_size=2))
def test_z_score_is_numpys(values):
    found = transform({**NORMALIZE, "method": "z_score"}, {"x": values})["x"].to_numpy()
    if min(values) == max(values):
        assert not found.any()
    elif np.std(values) > max(1e-100, 1e-6 * max(map(abs, values))):  # below, squares underflow and rounding is all
        assert np.allclose(found, (np.array(values) - np.mean(values)) / np.std(values), atol=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=4))
def test_robust_is_by_numpys_quartiles(values):
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    found = transform({**NORMALIZE, "method": "robust"}, {"x": values})["x"].to_numpy()
    if q3 - q1 > 1e-3:
        assert np.allclose(found, (np.array(values) - median) / (q3 - q1), rtol=1e-6, atol=1e-6)


@given(st.lists(st.text()))
def test_text_is_composed_and_single_spaced_and_stays_so(values):
    once = transform(NORMALIZE, pl.DataFrame({"s": values}, schema={"s": pl.String}))
    assert transform(NORMALIZE, once).equals(once)
    for text in once["s"]:
        assert unicodedata.is_normalized("NFC", text)
        assert text == text.strip(" \t\n")
        assert "  " not in text


def test_the_result_is_a_plan_that_goes_row_by_row():
    plan = attempt({**NORMALIZE, "method": "z_score"}, {"a": {"x": [1, 2, 3]}})
    assert isinstance(plan, pl.LazyFrame)
    assert "mean" not in plan.explain()


def test_an_unknown_field_is_named_with_the_nearest():
    with pytest.raises(StageError) as caught:
        transform({**NORMALIZE, "fields": ["agee"]}, MIXED)
    assert caught.value.error_class is ErrorClass.DATA
    assert caught.value.message == (
        "column 'agee' not found in input of stage 'here'; did you mean 'age'? "
        "columns: 'name', 'age', 'member', 'score'"
    )


def test_a_definition_with_a_wrong_method_is_refused():
    assert problems({**NORMALIZE, "method": "minmax"}) == [
        "stages[0].config.method: must be one of 'min_max', 'z_score' or 'robust', not \"minmax\""
    ]
