"""The `aggregate` transform: one row for each group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import polars as pl
from pydantic import Field, model_validator

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import ONE, Access, Operator, OperatorConfig, StageContext
from flexiroaster.operators.dtypes import friendly_name
from flexiroaster.operators.expressions import bind, check_expression, is_aggregate
from flexiroaster.operators.schemas import ColumnNames, input_of, input_schema, is_blank, require_columns

__all__ = ["Aggregate", "AggregateConfig", "Aggregation"]

NUMERIC_FUNCTIONS = frozenset({"mean", "sum", "median", "std", "quantile"})


class Aggregation(OperatorConfig):
    """The short form: one function over one column."""

    column: str = Field(description="The column to aggregate.")
    function: Literal[
        "mean", "sum", "min", "max", "median", "std", "count", "n_unique", "first", "last", "quantile"
    ] = Field(description="The aggregate function; count and n_unique ignore missing values.")
    quantile: float | None = Field(default=None, ge=0, le=1, description="The quantile for 'function: quantile', 0..1.")

    @model_validator(mode="after")
    def _quantile_goes_with_its_function(self) -> Self:
        if (self.function == "quantile") != (self.quantile is not None):
            raise ValueError("'function: quantile' requires 'quantile' (0..1), other functions do not accept it")
        return self

    def expression(self) -> pl.Expr:
        """Return the polars expression.

        `count` and `n_unique` ignore missing values, and `std` has ddof 1, as in SQL and pandas.
        """
        column = pl.col(self.column)
        match self.function:
            case "quantile":
                return column.quantile(self.quantile or 0.0, interpolation="linear")
            case "n_unique":
                return column.drop_nulls().n_unique()
            case function:
                found: pl.Expr = getattr(column, function)()
                return found


class AggregateConfig(OperatorConfig):
    """If `by` is empty, the result is one row for the whole table."""

    by: ColumnNames = Field(default_factory=list, description="The columns to group by.")
    aggregations: dict[str, str | Aggregation] = Field(
        min_length=1, description="New column -> SQL expression, or {column, function}."
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = [name for name in self.aggregations if name in self.by]
        if taken:
            raise ValueError(f"{taken[0]!r} is both in 'by' and the name of an aggregation")
        return self


class Aggregate(Operator[AggregateConfig]):
    """Summarize groups of rows, or the whole table.

    Example: `{"by": ["carrier"], "aggregations": {"flights": "COUNT(*)", "late": "AVG(dep_delay)"}}`. An aggregation
    can also be `{"column": "dep_delay", "function": "quantile", "quantile": 0.9}`. The result is sorted by `by`.
    """

    stage_type = StageType.TRANSFORM
    name = "aggregate"
    config_model = AggregateConfig
    arity = ONE

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem for each expression that does not parse."""
        for name, wanted in self.config.aggregations.items():
            if isinstance(wanted, str):
                yield from check_expression(wanted, f"aggregations.{name}")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the summary. Raises StageError: code for an invalid expression, data for a missing column."""
        if is_blank(context):
            return context.table
        by, schema = self.config.by, input_schema(context)
        require_columns(by, schema, input_of(context))
        found = [
            _aggregated(name, wanted, schema, input_of(context)).alias(name)
            for name, wanted in self.config.aggregations.items()
        ]
        return context.table.group_by(by).agg(found).sort(by) if by else context.table.select(found)


def _aggregated(name: str, wanted: str | Aggregation, schema: pl.Schema, where: str) -> pl.Expr:
    path = f"aggregations.{name}"
    if isinstance(wanted, Aggregation):
        require_columns([wanted.column], schema, where)
        dtype = schema[wanted.column]
        if wanted.function in NUMERIC_FUNCTIONS and not (dtype.is_numeric() or isinstance(dtype, pl.Boolean | pl.Null)):
            message = f"{path}: {wanted.function} needs numbers, column {wanted.column!r} is {friendly_name(dtype)}"
            raise StageError(message, ErrorClass.DATA)
        return wanted.expression()
    expression = bind(wanted, path, schema, where)
    if not is_aggregate(expression, wanted, path, schema):
        message = f"{path}: returns a value for each row, not for each group: {wanted!r}; wrap it, as in SUM(...)"
        raise StageError(message, ErrorClass.CODE)
    return expression
