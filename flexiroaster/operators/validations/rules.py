"""The `rules` validation: checks a table against declared rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Literal, Self

import polars as pl
from polars.datatypes import DataType
from polars.exceptions import PolarsError
from pydantic import Field, model_validator

from flexiroaster.errors import Problem, code_error, data_error, first_line
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.dtypes import DtypeName, accepts, conversion, conversion_failed, friendly_name, parse_dtype
from flexiroaster.operators.expressions import check_expression, dtype_of, is_aggregate, parse
from flexiroaster.operators.tables import ColumnNames, has_no_columns, listed, missing_columns
from flexiroaster.operators.validations import row_rules
from flexiroaster.operators.validations.row_rules import (
    Finding,
    Outcome,
    RangeRule,
    RowRule,
    table_finding,
    whole_value_pattern,
)

__all__ = ["Rules"]

REASONS = "_reasons"
"""The column of a quarantine table that says which rules the row violates."""

_PREFIX = "__flexiroaster_"


class RowCount(OperatorConfig):
    """The allowed number of rows."""

    min: int = Field(default=0, ge=0, description="The minimum number of rows.")
    max: int | None = Field(default=None, ge=0, description="The maximum number of rows.")

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
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
    are too few `rows`, a check over an aggregate is false). Invalid rows fail the stage, are dropped, or go to the side
    table `quarantine` with the reasons in the column `_reasons`. A violation by the whole table always fails the stage.

    A type accepts every representation of its kind (see `flexiroaster.operators.dtypes`). `integer` also accepts whole
    numbers stored as floats, and every type accepts a column without values. With `coerce`, columns of other types are
    converted, and rows with a value that does not fit are invalid. Of rows with the same unique value, all except the
    first are invalid.
    """

    stage_type = StageType.VALIDATION
    name = "rules"
    config_model = RulesConfig

    # Pandera was measured as an alternative. On a lazy frame it checks only the schema. For rules on values it collects
    # the whole table, writes every failing value as text, and takes 0.7 s to import. Here rules are polars expressions:
    # one streaming pass counts all violations, and the same expressions select the rows to drop.

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem for each expression and pattern that does not parse."""
        for name, text in self.config.checks.items():
            yield from check_expression(text, f"checks.{name}")
        for column, pattern in self.config.patterns.items():
            try:
                pl.Series([""]).str.contains(whole_value_pattern(pattern))
            except PolarsError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.startswith("error:")]
                reason = lines[0].removeprefix("error: ") if lines else first_line(error)
                yield Problem(f"patterns.{column}", f"{reason}: {pattern!r}", "pattern")

    def run(self, context: StageContext) -> Result:
        """Return the valid rows and a report. Raises StageError (data) with the report as its details."""
        (stage_id,) = context.inputs
        if has_no_columns(context) and not self.config.rows.min:
            return Result(
                passthrough_stage=stage_id, report={**Outcome(rows=0).report(), "warnings": ["the input is empty"]}
            )
        plan = Plan(self.config, context.table, in_memory=context.in_memory)
        outcome = plan.evaluate()
        report = outcome.report()
        if outcome.findings and (self.config.on_invalid == "fail" or outcome.concerns_table):
            raise data_error(outcome.message(), **report)
        if not outcome.findings and not plan.conversions:
            return Result(passthrough_stage=stage_id, report=report)
        if not outcome.findings:
            return Result(
                table=plan.converted(), row_aligned_with=stage_id, changed_columns=plan.conversions, report=report
            )
        context.logger.warning("%s", outcome.message())
        side_tables = {"quarantine": plan.invalid_rows()} if self.config.on_invalid == "quarantine" else {}
        mask = plan.valid_mask()
        return Result(
            table=plan.valid_rows(),
            row_aligned_with=None if mask is None else stage_id,
            row_mask=mask,
            report=report,
            side_tables=side_tables,
        )


# --- plan ---


class Plan:
    """The rules of a config, prepared for one table: it finds violations and selects valid or invalid rows.

    `in_memory` is true if the whole table fits in memory.
    """

    def __init__(self, config: RulesConfig, table: pl.LazyFrame, *, in_memory: bool) -> None:
        self._config = config
        self._in_memory = in_memory
        self._table = table
        self._schema = table.collect_schema()
        self.conversions: dict[str, pl.Expr] = {}  # the columns that `coerce` converts
        self._findings: list[Finding] = []  # of the whole table, from the schema alone
        self._table_tests: list[tuple[pl.Expr, Finding]] = []  # of the whole table, if the expression is false
        self._rows: list[RowRule] = []
        self._add_required()
        self._types = self._usable_types()
        for planned in self._planned():
            self._add(planned)
        for name, text in config.checks.items():
            self._add_check(name, text)

    def converted(self) -> pl.LazyFrame:
        """Return the table with converted columns."""
        return self._table.with_columns(after.alias(name) for name, after in self.conversions.items())

    def valid_rows(self) -> pl.LazyFrame:
        """Return the rows that violate no rule, with converted columns."""
        return self._flagged.filter(~pl.any_horizontal(self._flags())).select(list(self._schema))

    def valid_mask(self) -> pl.Series | None:
        """Return whether each row is valid, or None if columns are converted or the table does not fit in memory."""
        if not self._in_memory or self.conversions:
            return None
        return self._flagged.select(~pl.any_horizontal(self._flags())).collect(engine="in-memory").to_series()

    def invalid_rows(self) -> pl.LazyFrame | pl.DataFrame:
        """Return the invalid rows with their original values and the column `_reasons`."""
        texts = [pl.when(flag).then(pl.lit(rule.reason)) for flag, rule in zip(self._flags(), self._rows, strict=True)]
        columns = [pl.col(self._raw(name)).alias(name) for name in self._schema if name != REASONS]
        reasons = pl.concat_str(texts, separator="; ", ignore_nulls=True).alias(REASONS)
        return self._computed(self._flagged.filter(pl.any_horizontal(self._flags())).select(*columns, reasons))

    def evaluate(self) -> Outcome:
        """Find all violations in one pass over the table."""
        found = (
            self._flagged.select(self._measures())
            .collect(engine="in-memory" if self._in_memory else "streaming")
            .row(0, named=True)
        )
        rows = found["rows"]
        broken = [finding for i, (_, finding) in enumerate(self._table_tests) if found[f"test{i}"] is False]
        table = [*self._row_count(rows), *(replace(finding, count=rows) for finding in [*self._findings, *broken])]
        row_findings = [
            Finding(rule.rule, rule.column, found[f"count{i}"], rule.detail, tuple(found.get(f"examples{i}") or ()))
            for i, rule in enumerate(self._rows)
            if found[f"count{i}"]
        ]
        return Outcome(rows, rows if table else found["invalid"], [*table, *row_findings])

    def _measures(self) -> Iterator[pl.Expr]:
        yield pl.len().alias("rows")
        flags = self._flags()
        yield (pl.any_horizontal(flags).sum() if flags else pl.lit(0)).alias("invalid")
        for i, (flag, rule) in enumerate(zip(flags, self._rows, strict=True)):
            yield flag.sum().alias(f"count{i}")
            if rule.value is not None and self._config.max_examples:
                offending = rule.value.filter(flag).unique(maintain_order=True)
                yield offending.head(self._config.max_examples).implode().alias(f"examples{i}")
        for i, (holds, _) in enumerate(self._table_tests):
            yield holds.alias(f"test{i}")

    @cached_property
    def _flagged(self) -> pl.LazyFrame:
        """The converted table with the original of each converted column and one boolean column for each row rule."""
        before = self._table.with_columns(
            *(pl.col(name).alias(self._raw(name)) for name in self.conversions),
            *(after.alias(name) for name, after in self.conversions.items()),
        )
        flags = (self._violation(rule, before).alias(f"{_PREFIX}{i}") for i, rule in enumerate(self._rows))
        return self._computed(before.with_columns(flags)).lazy()

    def _violation(self, rule: RowRule, table: pl.LazyFrame) -> pl.Expr:
        """Return an expression that is true for the rows that violate a rule, and never null."""
        never = rule.never_violated
        if self._in_memory and never is not None and table.select(never).collect(engine="in-memory").item():
            return pl.lit(value=False)
        return rule.violated.fill_null(value=False)

    def _computed(self, frame: pl.LazyFrame) -> pl.LazyFrame | pl.DataFrame:
        """Compute the frame now if it fits in memory."""
        return frame.collect(engine="in-memory") if self._in_memory else frame

    def _flags(self) -> list[pl.Expr]:
        return [pl.col(f"{_PREFIX}{i}") for i in range(len(self._rows))]

    def _raw(self, name: str) -> str:
        """Return the name of the column with the original values."""
        return f"{_PREFIX}raw_{name}" if name in self.conversions else name

    def _row_count(self, rows: int) -> Iterator[Finding]:
        wanted = self._config.rows
        if rows < wanted.min:
            yield table_finding("rows", None, f"{rows} rows, fewer than {wanted.min}", rows)
        if wanted.max is not None and rows > wanted.max:
            yield table_finding("rows", None, f"{rows} rows, more than {wanted.max}", rows)

    def _add_required(self) -> None:
        """Add a finding for each missing required column: `required`, or by default all columns that rules name."""
        config = self._config
        named = [*config.schema_, *config.not_null, *(name for key in config.unique for name in key)]
        named += [*config.ranges, *config.patterns, *config.allowed]
        wanted = named if config.required is None else config.required
        for name in missing_columns(wanted, self._schema):
            self._add(table_finding("required", name, f"column {name!r} is missing"))

    def _usable_types(self) -> dict[str, DataType]:
        """Return the columns that rules can check, with their types after conversion."""
        wanted = self._config.schema_
        types = {
            n: self._checked_type(n, dtype, wanted[n]) if n in wanted else dtype for n, dtype in self._schema.items()
        }
        return {name: dtype for name, dtype in types.items() if dtype is not None}

    def _checked_type(self, name: str, dtype: DataType, wanted: str) -> DataType | None:
        """Plan the type rule of a column and return its type, or None if other rules cannot check the column."""
        target = parse_dtype(wanted)
        fits = accepts(wanted, dtype)
        if fits and not (self._config.coerce and isinstance(dtype, pl.Null)):
            return dtype
        after = conversion(pl.col(name), dtype, target)
        if self._config.coerce and after is not None:
            self.conversions[name] = after
            self._add_type_rule(name, wanted, conversion_failed(pl.col(self._raw(name)), pl.col(name)))
            return target
        if after is not None and target.is_integer() and dtype.is_numeric():  # accept whole numbers in a float column
            self._add_type_rule(name, wanted, conversion_failed(pl.col(name), after))
            return dtype
        remedy = "; 'coerce: true' converts it" if after is not None else ""
        finding = table_finding("type", name, f"column {name!r} is {friendly_name(dtype)}, expected {wanted}{remedy}")
        self._table_tests.append((pl.col(name).count() == 0, finding))  # a column without values satisfies every type
        return None

    def _add_type_rule(self, name: str, wanted: str, violated: pl.Expr) -> None:
        self._add(RowRule("type", name, wanted, violated, pl.col(self._raw(name))))

    def _add(self, planned: RowRule | Finding) -> None:
        if isinstance(planned, RowRule):
            self._rows.append(planned)
        else:
            self._findings.append(planned)

    def _planned(self) -> Iterator[RowRule | Finding]:
        """Yield the rules on existing columns; all rules except `not_null` also require the right type."""
        config, types = self._config, self._types
        for name in config.not_null:
            if name in self._schema:
                yield row_rules.not_null(name, types.get(name, self._schema[name]))
        for key in config.unique:
            if all(name in types for name in key):
                yield row_rules.unique(key)
        yield from (row_rules.in_range(n, bounds, types[n]) for n, bounds in config.ranges.items() if n in types)
        yield from (
            row_rules.matches_pattern(n, pattern, types[n]) for n, pattern in config.patterns.items() if n in types
        )
        yield from (row_rules.allowed_values(n, values, types[n]) for n, values in config.allowed.items() if n in types)

    def _add_check(self, name: str, text: str) -> None:
        """Add an SQL check; a check over an aggregate concerns the whole table. A null result passes."""
        path = f"checks.{name}"
        expression = parse(text, path)
        columns = expression.meta.root_names()
        missing = missing_columns(columns, self._schema)
        if missing:
            noun = "column" if len(missing) == 1 else "columns"
            self._add(table_finding("check", None, f"check {name!r} needs {noun} {listed(missing)}, not found"))
        if missing_columns(columns, self._types):
            return
        schema = pl.Schema(self._types)
        dtype = dtype_of(expression, text, path, schema)
        if not isinstance(dtype, pl.Boolean | pl.Null):
            raise code_error(f"{path}: must be boolean, returns {friendly_name(dtype)}: {text!r}")
        if is_aggregate(expression, text, path, schema):
            finding = table_finding("check", None, f"check {name!r} failed: {text}")
            self._table_tests.append((expression, finding))
        else:
            self._add(row_rules.sql_check(name, text, expression, columns))
