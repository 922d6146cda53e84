"""Names of column types."""

from __future__ import annotations

import polars as pl
import pytest

from flexiroaster.operators.dtypes import accepts, friendly_name, parse_dtype


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("integer", pl.Int64()),
        ("int", pl.Int64()),
        ("Integer", pl.Int64()),
        (" number ", pl.Float64()),
        ("float", pl.Float64()),
        ("string", pl.String()),
        ("text", pl.String()),
        ("Utf8", pl.String()),
        ("bool", pl.Boolean()),
        ("boolean", pl.Boolean()),
        ("Boolean", pl.Boolean()),
        ("date", pl.Date()),
        ("time", pl.Time()),
        ("duration", pl.Duration("us")),
        ("datetime", pl.Datetime("us")),
        ("Datetime", pl.Datetime("us")),
        ("datetime[UTC]", pl.Datetime("us", "UTC")),
        ("datetime[Europe/Berlin]", pl.Datetime("us", "Europe/Berlin")),
        ("datetime[Etc/GMT+2]", pl.Datetime("us", "Etc/GMT+2")),
        ("datetime[ns]", pl.Datetime("ns")),
        ("datetime[ms, UTC]", pl.Datetime("ms", "UTC")),
        ("datetime[μs, UTC]", pl.Datetime("us", "UTC")),
        ("decimal", pl.Decimal(38, 9)),
        ("decimal(10,2)", pl.Decimal(10, 2)),
        ("Decimal( 10 , 2 )", pl.Decimal(10, 2)),
        ("decimal(5)", pl.Decimal(5, 0)),
        ("Int32", pl.Int32()),
        ("int8", pl.Int8()),
        ("UInt64", pl.UInt64()),
        ("Float32", pl.Float32()),
        ("Categorical", pl.Categorical()),
        ("binary", pl.Binary()),
    ],
)
def test_a_name_is_a_type(name, dtype):
    assert parse_dtype(name) == dtype


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("integr", "unknown type 'integr'; did you mean 'integer' or 'int'"),
        ("Int33", "unknown type 'Int33'; did you mean 'Int32' or 'UInt32' or 'Int8'?"),
        ("datetime[Europe/Berln]", "unknown time zone 'Europe/Berln' in type 'datetime[Europe/Berln]'; did you mean"),
        ("decimal(40,2)", "type 'decimal(40,2)': the precision must be 1 to 38, the scale 0 to the precision"),
        ("decimal(4,5)", "type 'decimal(4,5)': the precision must be 1 to 38, the scale 0 to the precision"),
        (
            "",
            "unknown type ''; known types: integer, number, string, boolean, date, datetime, time, duration, decimal,",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(ValueError) as caught:
        parse_dtype(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("integer", pl.Int8(), True),
        ("int", pl.UInt64(), True),
        ("integer", pl.Float64(), False),
        ("integer", pl.String(), False),
        ("integer", pl.Boolean(), False),
        ("number", pl.Int64(), True),
        ("number", pl.Decimal(10, 2), True),
        ("number", pl.String(), False),
        ("string", pl.Categorical(), True),
        ("string", pl.Enum(["a"]), True),
        ("string", pl.Int64(), False),
        ("datetime", pl.Datetime("ms", "UTC"), True),
        ("datetime", pl.Date(), False),
        ("datetime[UTC]", pl.Datetime("ms", "UTC"), True),
        ("datetime[UTC]", pl.Datetime("us"), False),
        ("datetime[ms]", pl.Datetime("us"), False),
        ("duration", pl.Duration("ns"), True),
        ("decimal", pl.Decimal(10, 2), True),
        ("decimal(10,2)", pl.Decimal(10, 3), False),
        ("Int32", pl.Int32(), True),
        ("Int32", pl.Int64(), False),
        ("boolean", pl.Boolean(), True),
        ("integer", pl.Null(), True),
        ("Int32", pl.Null(), True),
    ],
)
def test_a_friendly_name_accepts_a_kind_and_polars_name_one_type(name, dtype, expected):
    assert accepts(name, dtype) is expected


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (pl.Int32(), "integer"),
        (pl.Float32(), "number"),
        (pl.String(), "string"),
        (pl.Categorical(), "categorical"),
        (pl.Datetime("ms"), "datetime"),
        (pl.Datetime("us", "UTC"), "datetime[UTC]"),
        (pl.Decimal(10, 2), "decimal(10,2)"),
        (pl.Duration("ms"), "duration"),
        (pl.Boolean(), "boolean"),
        (pl.List(pl.Int64), "List(Int64)"),
    ],
)
def test_a_type_has_a_name_for_people(dtype, name):
    assert friendly_name(dtype) == name
