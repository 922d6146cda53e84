"""The `normalize` transform: scale numbers and clean text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isinf
from typing import Literal

import polars as pl
from pydantic import Field

from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import ONE, Operator, OperatorConfig, StageContext
from flexiroaster.operators.schemas import input_of, input_schema, is_blank, require_columns

__all__ = ["Normalize", "NormalizeConfig"]

Method = Literal["min_max", "z_score", "robust"]


class NormalizeConfig(OperatorConfig):
    """If `fields` is not given, all columns are normalized."""

    method: Method = Field(default="min_max", description="The scaling method for numbers.")
    fields: list[str] | None = Field(default=None, description="The columns to normalize; default: all.")


class Normalize(Operator[NormalizeConfig]):
    """Scale numeric columns and clean text columns.

    Numbers become Float64. `min_max` computes (x - min) / (max - min), in 0..1. `z_score` computes (x - mean) /
    standard deviation, with the population's standard deviation (ddof 0). `robust` computes (x - median) / IQR, with
    linearly interpolated quartiles, or x - median if the IQR is 0. A constant column becomes 0.0. Missing values, NaN
    and infinities are unchanged and do not affect the statistics. Text is converted to Unicode NFC and trimmed, and
    runs of white space become one blank. Columns of other types are unchanged.
    """

    stage_type = StageType.TRANSFORM
    name = "normalize"
    config_model = NormalizeConfig
    arity = ONE

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Compute the statistics in one pass, then return a row-by-row plan that can stream."""
        table = context.table
        if is_blank(context):
            return table
        schema = input_schema(context)
        fields = list(schema) if self.config.fields is None else list(dict.fromkeys(self.config.fields))
        require_columns(fields, schema, input_of(context))
        numeric = [name for name in fields if schema[name].is_numeric()]
        scaled = _scaled(table, numeric, self.config.method) if numeric else []
        text = [_clean_text(name) for name in fields if isinstance(schema[name], pl.String)]
        return table.with_columns(*scaled, *text)


def _clean_text(name: str) -> pl.Expr:
    return pl.col(name).str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()


def _scaled(table: pl.LazyFrame, names: list[str], method: Method) -> list[pl.Expr]:
    """Return one expression for each column, which contains the statistics of the whole column."""
    wanted = []
    for i, name in enumerate(names):
        value = _counted(name)
        wanted += [value.min().alias(f"{i}.min"), value.max().alias(f"{i}.max")]
        wanted += [statistic.alias(f"{i}.{key}") for key, statistic in _STATISTICS[method](value).items()]
    found = table.select(wanted).collect(engine="streaming").row(0, named=True)
    return [_scale(name, *_shift_and_width(found, i, method)) for i, name in enumerate(names)]


def _counted(name: str) -> pl.Expr:
    """Return the values used for statistics: neither missing nor NaN nor infinite."""
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


_STATISTICS: Mapping[Method, Callable[[pl.Expr], Mapping[str, pl.Expr]]] = {
    "min_max": lambda _value: {},
    "z_score": lambda value: {"mean": value.mean(), "std": value.std(ddof=0)},
    "robust": lambda value: {
        "median": value.median(),
        "q1": value.quantile(0.25, interpolation="linear"),
        "q3": value.quantile(0.75, interpolation="linear"),
    },
}


def _shift_and_width(found: Mapping[str, float | None], i: int, method: Method) -> tuple[float, float]:
    """Return the shift to subtract and the width to divide by; a width of 0 means that all values are equal."""
    low, high = found[f"{i}.min"], found[f"{i}.max"]
    if low is None or high is None or low == high:  # compare exactly: rounding of a mean must not look like a spread
        return 0.0, 0.0
    if method == "min_max":
        return low, high - low
    if method == "z_score":
        return found[f"{i}.mean"] or 0.0, found[f"{i}.std"] or 0.0
    return found[f"{i}.median"] or 0.0, ((found[f"{i}.q3"] or 0.0) - (found[f"{i}.q1"] or 0.0)) or 1.0


def _scale(name: str, shift: float, width: float) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    if width == 0:
        return pl.when(value.is_finite()).then(0.0).otherwise(value).alias(name)
    if isinf(1 / width):  # polars multiplies by the reciprocal, so a subnormal width gives NaN; powers of 2 are exact
        return ((value - shift) * _EXACT / (width * _EXACT)).alias(name)
    return ((value - shift) / width).alias(name)


_EXACT = 2.0**200
