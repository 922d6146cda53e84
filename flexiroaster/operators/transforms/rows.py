"""The row transforms `filter`, `deduplicate`, `sort`, `passthrough`, `fill_missing` and `aggregate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Self

import polars as pl
from polars.datatypes import DataType
from pydantic import Field, model_validator

from flexiroaster.errors import Problem, code_error, data_error
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.dtypes import friendly_name, literal
from flexiroaster.operators.expressions import check_expression, dtype_of, is_aggregate, parse_for_schema
from flexiroaster.operators.tables import ColumnNames, describe_input, has_no_columns, require_columns

__all__ = ["Aggregate", "Deduplicate", "FillMissing", "Filter", "Passthrough", "Sort"]

Strategy = Literal["forward", "backward", "mean", "median", "zero", "min", "max"]

NUMERIC_FUNCTIONS = frozenset({"mean", "sum", "median", "std", "quantile"})


class FilterConfig(OperatorConfig):
    """`where` is a boolean SQL expression."""

    where: str = Field(description="Boolean SQL expression; rows for which it is true are kept.")


class Filter(Operator[FilterConfig]):
    """Keep the rows for which an SQL expression is true; null counts as false."""

    stage_type = StageType.TRANSFORM
    name = "filter"
    config_model = FilterConfig

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem if the expression does not parse."""
        yield from check_expression(self.config.where, "where")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the matching rows. Raises StageError: code for an invalid expression, data for a missing column."""
        if has_no_columns(context):
            return context.table
        schema, text = context.table.collect_schema(), self.config.where
        condition = parse_for_schema(text, "where", schema, describe_input(context))
        dtype = dtype_of(condition, text, "where", schema)
        if not isinstance(dtype, pl.Boolean | pl.Null):
            raise code_error(f"where: must be boolean, returns {friendly_name(dtype)}: {text!r}")
        return context.table.filter(condition)


class DeduplicateConfig(OperatorConfig):
    """If `by` is not given, all columns are compared."""

    by: ColumnNames | None = Field(default=None, min_length=1, description="The columns to compare; default: all.")
    keep: Literal["first", "last", "any", "none"] = Field(
        default="first", description="Which of equal rows to keep; 'none' drops all of them."
    )


class Deduplicate(Operator[DeduplicateConfig]):
    """Drop duplicate rows and keep the order of the others. Missing values are equal to each other."""

    stage_type = StageType.TRANSFORM
    name = "deduplicate"
    config_model = DeduplicateConfig

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the distinct rows. Raises StageError (data) for a missing column."""
        if has_no_columns(context):
            return context.table
        require_columns(self.config.by or (), context.table.collect_schema(), describe_input(context))
        return context.table.unique(self.config.by, keep=self.config.keep, maintain_order=True)


class SortConfig(OperatorConfig):
    """The first column of `by` is the primary sort key."""

    by: ColumnNames = Field(min_length=1, description="The columns to sort by, most significant first.")
    descending: bool | list[bool] = Field(
        default=False, description="Descending order, for all columns or as a list with one value for each."
    )
    nulls_last: bool = Field(default=False, description="Put missing values last.")

    @model_validator(mode="after")
    def _descending_matches_by(self) -> Self:
        if isinstance(self.descending, list) and len(self.descending) != len(self.by):
            lengths = f"{len(self.descending)} and {len(self.by)}"
            raise ValueError(f"'descending' and 'by' must have the same length, not {lengths}")
        return self


class Sort(Operator[SortConfig]):
    """Sort rows; rows with equal keys keep their order."""

    stage_type = StageType.TRANSFORM
    name = "sort"
    config_model = SortConfig

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the sorted table. Raises StageError (data) for a missing column."""
        if has_no_columns(context):
            return context.table
        config = self.config
        require_columns(config.by, context.table.collect_schema(), describe_input(context))
        return context.table.sort(
            config.by, descending=config.descending, nulls_last=config.nulls_last, maintain_order=True
        )


class PassthroughConfig(OperatorConfig):
    """No fields."""


class Passthrough(Operator[PassthroughConfig]):
    """Pass the input table on unchanged, without a copy."""

    stage_type = StageType.TRANSFORM
    name = "passthrough"
    config_model = PassthroughConfig

    def run(self, context: StageContext) -> Result:
        """Return a result that names the input stage."""
        (stage_id,) = context.inputs
        return Result(passthrough_stage=stage_id)


class FillMissingConfig(OperatorConfig):
    """Set exactly one of `columns` and `strategy`; `fields` is only for `strategy`."""

    columns: dict[str, bool | int | float | str] | None = Field(
        default=None, min_length=1, description="Column -> replacement for missing values."
    )
    strategy: Strategy | None = Field(default=None, description="How to compute the replacement, instead of 'columns'.")
    fields: list[str] | None = Field(
        default=None, min_length=1, description="The columns for 'strategy'; default: all that it applies to."
    )
    nan: bool = Field(default=True, description="Treat NaN as missing.")

    @model_validator(mode="after")
    def _one_of_columns_and_strategy(self) -> Self:
        if (self.columns is None) == (self.strategy is None):
            raise ValueError("give either 'columns' or 'strategy'")
        if self.fields is not None and self.strategy is None:
            raise ValueError("'fields' requires 'strategy'")
        return self


class FillMissing(Operator[FillMissingConfig]):
    """Replace missing values by a given value, the value of a neighboring row or a statistic of the column.

    `mean` and `median` convert integers to Float64; the other strategies keep the type. `zero`, `mean` and `median`
    apply to numbers, `min` and `max` to numbers, dates and times. Statistics ignore NaN.
    """

    stage_type = StageType.TRANSFORM
    name = "fill_missing"
    config_model = FillMissingConfig

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the filled table. Raises StageError (data) for a missing column or a value that does not fit."""
        if has_no_columns(context):
            return context.table
        schema = context.table.collect_schema()
        require_columns(self.config.columns or self.config.fields or (), schema, describe_input(context))
        if self.config.columns:
            values = {name: _literal(name, value, schema[name]) for name, value in self.config.columns.items()}
            return context.table.with_columns(self._column(n, schema[n]).fill_null(v) for n, v in values.items())
        if self.config.strategy == "forward" or self.config.strategy == "backward":
            names, way = self.config.fields or list(schema), self.config.strategy
            return context.table.with_columns(self._column(n, schema[n]).fill_null(strategy=way) for n in names)
        return self._filled_by_statistic(context, schema)

    def _filled_by_statistic(self, context: StageContext, schema: pl.Schema) -> pl.LazyFrame:
        """Compute the statistics in one pass, then fill row by row."""
        strategy = self.config.strategy or "zero"
        applies, statistic = _STATISTICS[strategy]
        for name in self.config.fields or ():
            if not applies(schema[name]):
                raise data_error(
                    f"strategy {strategy!r} does not apply to column {name!r}, which is {friendly_name(schema[name])}"
                )
        names = self.config.fields or [name for name, dtype in schema.items() if applies(dtype)]
        if not names:
            return context.table
        counted = [statistic(_without_nan(name, schema[name]), schema[name]).alias(name) for name in names]
        found = context.table.select(counted).collect(engine="streaming")
        return context.table.with_columns(
            self._column(name, schema[name])
            .cast(found.schema[name])
            .fill_null(pl.lit(found[name].item(), found.schema[name]))
            for name in names
        )

    def _column(self, name: str, dtype: DataType) -> pl.Expr:
        """Return the column with null for every value that counts as missing."""
        return _without_nan(name, dtype) if self.config.nan else pl.col(name)


def _without_nan(name: str, dtype: DataType) -> pl.Expr:
    return pl.col(name).fill_nan(None) if dtype.is_float() else pl.col(name)


def _literal(name: str, value: bool | float | str, dtype: DataType) -> pl.Expr:
    """Return the value as a literal of the column's type. Raises StageError (data) if it does not fit."""
    fitted = literal(value, dtype)
    if fitted is None:
        raise data_error(f"columns.{name}: {value!r} does not fit column {name!r}, which is {friendly_name(dtype)}")
    return fitted


def _is_orderable(dtype: DataType) -> bool:
    return dtype.is_numeric() or dtype.is_temporal()


_STATISTICS: Mapping[str, tuple[Callable[[DataType], bool], Callable[[pl.Expr, DataType], pl.Expr]]] = {
    "mean": (lambda dtype: dtype.is_numeric(), lambda column, _: column.mean()),
    "median": (lambda dtype: dtype.is_numeric(), lambda column, _: column.median()),
    "zero": (lambda dtype: dtype.is_numeric(), lambda _, dtype: pl.lit(0).cast(dtype)),
    "min": (_is_orderable, lambda column, _: column.min()),
    "max": (_is_orderable, lambda column, _: column.max()),
}
"""Strategy -> (a test of the types it applies to, the value it fills in)."""


class Aggregation(OperatorConfig):
    """The short form: one function over one column."""

    column: str = Field(description="The column to aggregate.")
    function: Literal[
        "mean", "sum", "min", "max", "median", "std", "count", "n_unique", "first", "last", "quantile"
    ] = Field(description="The aggregate function; count and n_unique ignore missing values.")
    quantile: float | None = Field(default=None, ge=0, le=1, description="The quantile for 'function: quantile', 0..1.")

    @model_validator(mode="after")
    def _quantile_matches_function(self) -> Self:
        if (self.function == "quantile") != (self.quantile is not None):
            raise ValueError("'function: quantile' requires 'quantile' (0..1); other functions do not accept it")
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
    def _names_are_unique(self) -> Self:
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

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem for each expression that does not parse."""
        for name, wanted in self.config.aggregations.items():
            if isinstance(wanted, str):
                yield from check_expression(wanted, f"aggregations.{name}")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the summary. Raises StageError: code for an invalid expression, data for a missing column."""
        if has_no_columns(context):
            return context.table
        by, schema = self.config.by, context.table.collect_schema()
        require_columns(by, schema, describe_input(context))
        found = [
            _aggregated(name, wanted, schema, describe_input(context)).alias(name)
            for name, wanted in self.config.aggregations.items()
        ]
        return context.table.group_by(by).agg(found).sort(by) if by else context.table.select(found)


def _aggregated(name: str, wanted: str | Aggregation, schema: pl.Schema, where: str) -> pl.Expr:
    path = f"aggregations.{name}"
    if isinstance(wanted, Aggregation):
        require_columns([wanted.column], schema, where)
        dtype = schema[wanted.column]
        if wanted.function in NUMERIC_FUNCTIONS and not (dtype.is_numeric() or isinstance(dtype, pl.Boolean | pl.Null)):
            raise data_error(
                f"{path}: {wanted.function} needs numbers, column {wanted.column!r} is {friendly_name(dtype)}"
            )
        return wanted.expression()
    expression = parse_for_schema(wanted, path, schema, where)
    if not is_aggregate(expression, wanted, path, schema):
        raise code_error(
            f"{path}: returns a value for each row, not for each group: {wanted!r}; wrap it, as in SUM(...)"
        )
    return expression
