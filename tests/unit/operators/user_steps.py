"""Functions that a user's python stages call."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from os import getcwd  # noqa: F401 - what a module merely imported cannot be called

import pandas as pd
import polars as pl
import pyarrow as pa

SETTING = 3


def double(df, factor=2):
    return df.assign(x=df["x"] * factor)


def dtypes_of(df):
    return {"column": list(df.columns), "dtype": [str(dtype) for dtype in df.dtypes]}


def by_name(load_data, names, *, limit):
    return load_data.merge(names, on="id").head(limit)


def all_of_them(tables):
    return {"id": list(tables), "rows": [len(table) for table in tables.values()]}


def annotated_as_dict(frames: Mapping[str, pd.DataFrame]):
    return all_of_them(frames)


def annotated_as_builtin(frames: dict[str, pd.DataFrame]):
    return all_of_them(frames)


def with_context(context, df):
    return df.assign(stage=context.stage_id)


def positional_only(df, /, suffix):
    return df.add_suffix(suffix)


def keywords(df, **options):
    return {"key": list(options), "value": list(options.values())}


def nothing_needed():
    return [{"a": 1, "b": "x"}, {"a": 2.5}]


def effect_only(df) -> None:
    assert len(df) == 2


def forgot_to_return(df):
    df["x"] = 1


def number(df):
    return 7


def some_list(df):
    return [1, 2]


def series(df):
    return df["x"]


def two_needed(df, other):
    return df


def fails(df):
    raise KeyError("my own mistake")


async def asynchronous(df):
    return df


def generator(df):
    yield df


def polars_frame(df):
    return df.with_columns(kind=pl.lit(type(df).__name__))


def polars_lazy(df: pl.LazyFrame):
    return df.with_columns(kind=pl.lit(type(df).__name__))


def polars_lazy_result(df):
    return df.lazy()


def arrow(df):
    return pa.table({"x": [1, 2]})


def returns(df, what):
    return MADE[what](df)


@functools.cache
def cached():
    return {"x": [1]}


def _typed_columns(_):
    return {"x": [1, 2.5], "y": [None, "b"]}


MADE = {
    "columns": _typed_columns,
    "empty list": lambda _: [],
    "empty frame": lambda _: pd.DataFrame(),
    "filtered": lambda df: df[df["x"] > 1],
    "sorted": lambda df: df.sort_values("x", ascending=False),
    "grouped": lambda df: df.groupby("k").agg(total=("x", "sum")),
    "grouped by two": lambda df: df.groupby(["k", "x"])[["x"]].sum().rename(columns={"x": "total"}),
    "unnamed text index": lambda df: df.set_index(pd.Index(["p", "q"])),
    "dates": lambda df: df.set_index(pd.date_range("2024-01-01", periods=2, name="day")),
    "numbers as names": lambda df: pd.DataFrame([[1, 2]]),
    "twice the same name": lambda df: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "index named like a column": lambda df: df.set_index(df["k"].rename("x")),
    "multi columns": lambda df: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
    "mixed": lambda df: pd.DataFrame({"fine": [1, 2], "mix": [1, "x"]}),
    "objects": lambda df: pd.DataFrame({"o": [object(), object()]}),
    "objects in a dict": lambda df: {"o": [object(), object()]},
    "uneven": lambda df: {"a": [1], "b": [1, 2]},
    "scalar column": lambda df: {"a": "text"},
    "number keys": lambda df: [{1: "a"}],
    "nan": lambda df: pd.DataFrame({"f": [1.0, None], "s": ["a", None], "i": pd.array([1, None], dtype="Int64")}),
    "categories": lambda df: pd.DataFrame({"c": pd.Categorical(["a", "b"])}),
}
