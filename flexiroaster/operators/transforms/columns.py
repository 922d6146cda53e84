"""The column transforms `select`, `rename`, `cast`, `derive` and `normalize`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import isinf
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import AfterValidator, Field, model_validator

from flexiroaster.errors import Problem, data_error
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.dtypes import DtypeName, conversion, describe_misfits, friendly_name, parse_dtype
from flexiroaster.operators.expressions import check_expression, dtype_of, parse_for_schema
from flexiroaster.operators.tables import describe_input, has_no_columns, listed, require_columns

__all__ = ["Cast", "Derive", "Normalize", "Rename", "Select"]

Method = Literal["min_max", "z_score", "robust"]

_POWER_OF_2 = 2.0**200


def _refuse_repeated(names: list[str] | None) -> list[str] | None:
    repeated = [name for name, times in Counter(names or ()).items() if times > 1]
    if repeated:
        raise ValueError(f"names must be unique, found {listed(repeated)} more than once")
    return names


class SelectConfig(OperatorConfig):
    """Set exactly one of `columns` and `exclude`."""

    columns: Annotated[list[str] | None, AfterValidator(_refuse_repeated)] = Field(
        default=None, min_length=1, description="The columns to keep, in this order."
    )
    exclude: list[str] | None = Field(default=None, min_length=1, description="The columns to drop.")

    @model_validator(mode="after")
    def _one_of_columns_and_exclude(self) -> Self:
        if (self.columns is None) == (self.exclude is None):
            raise ValueError("give either 'columns' or 'exclude'")
        return self


class Select(Operator[SelectConfig]):
    """Keep the given columns, in the given order, or drop columns."""

    stage_type = StageType.TRANSFORM
    name = "select"
    config_model = SelectConfig

    def run(self, context: StageContext) -> Result:
        """Return the selected columns. Raises StageError (data) for a missing column."""
        (stage_id,) = context.inputs
        if has_no_columns(context):
            return Result(context.table)
        wanted = self.config.columns or self.config.exclude or []
        require_columns(wanted, context.table.collect_schema(), describe_input(context))
        narrower = context.table.select(wanted) if self.config.columns else context.table.drop(wanted)
        return Result(table=narrower, row_aligned_with=stage_id)


class RenameConfig(OperatorConfig):
    """The new names of columns."""

    columns: dict[str, str] = Field(min_length=1, description="Old name -> new name.")

    @model_validator(mode="after")
    def _new_names_are_unique(self) -> Self:
        _refuse_repeated(list(self.columns.values()))
        if "" in self.columns.values():
            raise ValueError("a new name must not be empty")
        return self


class Rename(Operator[RenameConfig]):
    """Rename columns; two columns can swap names."""

    stage_type = StageType.TRANSFORM
    name = "rename"
    config_model = RenameConfig

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the renamed table. Raises StageError (data) for a missing column or a name that is already taken."""
        if has_no_columns(context):
            return context.table
        schema, columns = context.table.collect_schema(), self.config.columns
        require_columns(columns, schema, describe_input(context))
        for old, new in columns.items():
            if new in schema and new not in columns:
                raise data_error(
                    f"cannot rename {old!r} to {new!r}: {describe_input(context)} already has a column of that name"
                )
        return context.table.rename(columns)


class CastConfig(OperatorConfig):
    """The new types of columns."""

    columns: dict[str, DtypeName] = Field(min_length=1, description="Column -> type, such as integer or datetime[UTC].")
    on_error: Literal["fail", "null"] = Field(default="fail", description="How to treat a value that does not fit.")


class Cast(Operator[CastConfig]):
    """Change the types of columns.

    A value that does not fit (`1.5` or `x` for an integer) fails the stage, or becomes null with `on_error: null`.
    Values are never rounded or truncated silently.
    """

    stage_type = StageType.TRANSFORM
    name = "cast"
    config_model = CastConfig

    def run(self, context: StageContext) -> Result:
        """Return the converted table; with `on_error: fail`, a first pass checks the columns concerned."""
        (stage_id,) = context.inputs
        if has_no_columns(context):
            return Result(context.table)
        schema = context.table.collect_schema()
        require_columns(self.config.columns, schema, describe_input(context))
        conversions = {name: self._converted(name, wanted, schema) for name, wanted in self.config.columns.items()}
        if self.config.on_error == "fail":
            fallible = {name: after for name, after in conversions.items() if self._may_fail(name, schema[name])}
            if problems := describe_misfits(context.table, fallible, self.config.columns):
                raise data_error("; ".join(problems))
        table = context.table.with_columns(after.alias(name) for name, after in conversions.items())
        return Result(table=table, row_aligned_with=stage_id, changed_columns=conversions)

    def _may_fail(self, name: str, source: pl.DataType) -> bool:
        target = parse_dtype(self.config.columns[name])
        return not (source == target or isinstance(source, pl.Null) or isinstance(target, pl.String))

    def _converted(self, name: str, wanted: str, schema: pl.Schema) -> pl.Expr:
        after = conversion(pl.col(name), schema[name], parse_dtype(wanted))
        if after is None:
            raise data_error(f"cannot cast column {name!r} from {friendly_name(schema[name])} to {wanted}")
        return after


class DeriveConfig(OperatorConfig):
    """The expressions of new or replaced columns."""

    columns: dict[str, str] = Field(
        min_length=1, description="Column -> SQL expression; an expression can use earlier ones."
    )


class Derive(Operator[DeriveConfig]):
    """Add or replace columns by SQL expressions, in order, so an expression can use earlier columns.

    Example: `{"columns": {"delay": "COALESCE(arr_delay, 0)", "late": "delay > 15"}}`. An aggregate (`AVG(x)`) is
    computed over the whole table and repeated in every row.
    """

    stage_type = StageType.TRANSFORM
    name = "derive"
    config_model = DeriveConfig

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem for each expression that does not parse."""
        for name, text in self.config.columns.items():
            yield from check_expression(text, f"columns.{name}")

    def run(self, context: StageContext) -> Result:
        """Return the table with the derived columns. Raises StageError: code for syntax, data for a missing column."""
        table, (stage_id,) = context.table, context.inputs
        if has_no_columns(context):
            return Result(context.table)
        for name, text in self.config.columns.items():
            path, schema = f"columns.{name}", table.collect_schema()
            expression = parse_for_schema(text, path, schema, describe_input(context))
            dtype_of(expression, text, path, schema)
            table = table.with_columns(expression.alias(name))
        return Result(table=table, row_aligned_with=stage_id, changed_columns=self.config.columns)


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

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Compute the statistics in one pass, then return a row-by-row plan that can stream."""
        table = context.table
        if has_no_columns(context):
            return table
        schema = context.table.collect_schema()
        fields = list(schema) if self.config.fields is None else list(dict.fromkeys(self.config.fields))
        require_columns(fields, schema, describe_input(context))
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
        value = _finite(name)
        wanted += [value.min().alias(f"{i}.min"), value.max().alias(f"{i}.max")]
        wanted += [statistic.alias(f"{i}.{key}") for key, statistic in _STATISTICS[method](value).items()]
    found = table.select(wanted).collect(engine="streaming").row(0, named=True)
    return [_scale(name, *_shift_and_width(found, i, method)) for i, name in enumerate(names)]


def _finite(name: str) -> pl.Expr:
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
        return ((value - shift) * _POWER_OF_2 / (width * _POWER_OF_2)).alias(name)
    return ((value - shift) / width).alias(name)
