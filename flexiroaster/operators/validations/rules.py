"""The `rules` validation: checks a table against declared rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import polars as pl
from polars.exceptions import PolarsError
from pydantic import Field, model_validator

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import ONE, Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.dtypes import DtypeName
from flexiroaster.operators.expressions import check_expression, first_line
from flexiroaster.operators.schemas import ColumnNames, is_blank
from flexiroaster.operators.validations.outcome import Outcome
from flexiroaster.operators.validations.plan import Plan
from flexiroaster.operators.validations.row_rules import whole_value

__all__ = ["RangeRule", "RowCount", "Rules", "RulesConfig"]


class RangeRule(OperatorConfig):
    """The bounds of a column; bounds of dates and times are ISO text."""

    min: int | float | str | None = Field(default=None, description="The minimum.")
    max: int | float | str | None = Field(default=None, description="The maximum.")
    exclusive_min: bool = Field(default=False, description="Exclude `min` itself.")
    exclusive_max: bool = Field(default=False, description="Exclude `max` itself.")

    @model_validator(mode="after")
    def _bounds_are_there(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give 'min', 'max' or both")
        both_numbers = isinstance(self.min, int | float) and isinstance(self.max, int | float)
        if both_numbers and self.min > self.max:  # type: ignore[operator] # both are numbers here
            raise ValueError(f"'min' {self.min} is above 'max' {self.max}")
        return self


class RowCount(OperatorConfig):
    """The allowed number of rows."""

    min: int = Field(default=0, ge=0, description="The minimum number of rows.")
    max: int | None = Field(default=None, ge=0, description="The maximum number of rows.")

    @model_validator(mode="after")
    def _bounds_hold(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"'min' {self.min} is above 'max' {self.max}")
        return self


class RulesConfig(OperatorConfig):
    """The rules. Missing values (null) pass every rule except `not_null`."""

    schema_: dict[str, DtypeName] = Field(
        default_factory=dict, alias="schema", description="Column -> type, such as integer, string or datetime[UTC]."
    )
    coerce: bool = Field(default=False, description="Convert columns of another type.")
    required: list[str] | None = Field(
        default=None, description="Columns that must exist; default: all columns that other rules name."
    )
    not_null: list[str] = Field(
        default_factory=list, description="Columns that must not have missing values (null or NaN)."
    )
    unique: list[ColumnNames] = Field(
        default_factory=list, description="Columns, or lists of columns, whose values must be unique."
    )
    ranges: dict[str, RangeRule] = Field(
        default_factory=dict, description="Column -> bounds; NaN is always out of range."
    )
    patterns: dict[str, str] = Field(
        default_factory=dict, description="Column -> regex that must match the whole text."
    )
    allowed: dict[str, list[bool | int | float | str]] = Field(
        default_factory=dict, description="Column -> allowed values."
    )
    rows: RowCount = Field(default_factory=RowCount, description="The allowed number of rows.")
    checks: dict[str, str] = Field(default_factory=dict, description="Name -> boolean SQL expression.")
    on_invalid: Literal["fail", "drop", "quarantine"] = Field(
        default="fail", description="Fail the stage, drop invalid rows, or move them to a separate table."
    )
    max_examples: int = Field(
        default=5, ge=0, le=100, description="Maximum number of invalid values that the report shows for each rule."
    )


class Rules(Operator[RulesConfig]):
    """Check a table against rules: types, required columns, missing values, uniqueness, ranges, patterns, SQL checks.

    A rule concerns rows (a value is out of range) or the whole table (a column is missing or has another type, there
    are too few rows, a check over an aggregate is false). Invalid rows fail the stage, are dropped, or go to the side
    table `quarantine` with the reasons in the column `_reasons`. A violation by the whole table always fails the stage.

    A type accepts every representation of its kind (see `flexiroaster.operators.dtypes`). `integer` also accepts whole
    numbers stored as floats, and every type accepts a column without values. With `coerce`, columns of other types are
    converted, and rows with a value that does not fit are invalid. Of rows with the same unique value, all except the
    first are invalid.
    """

    stage_type = StageType.VALIDATION
    name = "rules"
    config_model = RulesConfig
    arity = ONE

    # Pandera was measured as an alternative. On a lazy frame it checks only the schema. For rules on values it collects
    # the whole table, writes every failing value as text, and takes 0.7 s to import. Here rules are polars expressions:
    # one streaming pass counts all violations, and the same expressions select the rows to drop.

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem for each expression and pattern that does not parse."""
        for name, text in self.config.checks.items():
            yield from check_expression(text, f"checks.{name}")
        for column, pattern in self.config.patterns.items():
            try:
                pl.Series([""]).str.contains(whole_value(pattern))
            except PolarsError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.startswith("error:")]
                reason = lines[0].removeprefix("error: ") if lines else first_line(error)
                yield Problem(f"patterns.{column}", f"{reason}: {pattern!r}", "pattern")

    def run(self, context: StageContext) -> Result:
        """Return the valid rows and a report. Raises StageError (data) with the report as its details."""
        (stage_id,) = context.inputs
        if is_blank(context) and not self.config.rows.min:
            return Result(unchanged=stage_id, report={**Outcome(rows=0).report(), "warnings": ["the input is empty"]})
        plan = Plan(self.config, context.table, in_memory=context.in_memory)
        outcome = plan.evaluate()
        report = outcome.report()
        if outcome.findings and (self.config.on_invalid == "fail" or outcome.concerns_table):
            raise StageError(outcome.message(), ErrorClass.DATA, **report)
        if not outcome.findings and not plan.conversions:
            return Result(unchanged=stage_id, report=report)
        if not outcome.findings:
            return Result(table=plan.converted(), beside=stage_id, fresh=plan.conversions, report=report)
        context.logger.warning("%s", outcome.message())
        side_tables = {"quarantine": plan.invalid_rows()} if self.config.on_invalid == "quarantine" else {}
        kept = plan.kept()
        beside = stage_id if kept is not None else None
        return Result(table=plan.valid_rows(), beside=beside, kept=kept, report=report, side_tables=side_tables)
