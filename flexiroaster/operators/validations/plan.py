"""Validation plan: evaluates all rules of a config over one table and selects valid or invalid rows.

A table that fits in memory is read once, and each rule is evaluated once. A larger table streams: a first pass counts
violations, and the rules are evaluated again when rows are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
from polars.datatypes import DataType

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.casting import conversion, unconverted
from flexiroaster.operators.dtypes import accepts, friendly_name, parse_dtype
from flexiroaster.operators.expressions import dtype_of, is_aggregate, parse
from flexiroaster.operators.schemas import listed, missing_columns
from flexiroaster.operators.validations import row_rules
from flexiroaster.operators.validations.outcome import Finding, Outcome
from flexiroaster.operators.validations.row_rules import RowRule, table_finding

if TYPE_CHECKING:
    from flexiroaster.operators.validations.rules import RulesConfig

__all__ = ["REASONS", "Plan"]

REASONS = "_reasons"

_PREFIX = "__flexiroaster_"


class Plan:
    """The rules of a config, prepared for one table; `in_memory` is true if the whole table fits in memory."""

    def __init__(self, config: RulesConfig, table: pl.LazyFrame, *, in_memory: bool = False) -> None:
        self._config = config
        self._in_memory = in_memory
        self._table = table
        self._schema = table.collect_schema()
        self._conversions: dict[str, pl.Expr] = {}
        self._findings: list[Finding] = []  # of the whole table, from the schema alone
        self._table_tests: list[tuple[pl.Expr, Finding]] = []  # of the whole table, if the expression is false
        self._rows: list[RowRule] = []
        self._require()
        self._types = self._require_types()
        for planned in self._planned():
            self._add(planned)
        for name, text in self._config.checks.items():
            self._add_check(name, text)

    @property
    def conversions(self) -> list[str]:
        """The columns that `coerce` converts."""
        return list(self._conversions)

    def converted(self) -> pl.LazyFrame:
        """Return the table with converted columns."""
        return self._table.with_columns(after.alias(name) for name, after in self._conversions.items())

    def valid_rows(self) -> pl.LazyFrame:
        """Return the rows that violate no rule, with converted columns."""
        return self._flagged.filter(~pl.any_horizontal(self._flags())).select(list(self._schema))

    def kept(self) -> pl.Series | None:
        """Return whether each row is valid, or None if columns are converted or the table does not fit in memory."""
        if not self._in_memory or self._conversions:
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
            *(pl.col(name).alias(self._raw(name)) for name in self._conversions),
            *(after.alias(name) for name, after in self._conversions.items()),
        )
        flags = (self._offence(rule, before).alias(f"{_PREFIX}{i}") for i, rule in enumerate(self._rows))
        return self._computed(before.with_columns(flags)).lazy()

    def _offence(self, rule: RowRule, table: pl.LazyFrame) -> pl.Expr:
        """Return an expression that is true for the rows that violate a rule, and never null."""
        if self._in_memory and rule.never is not None and table.select(rule.never).collect(engine="in-memory").item():
            return pl.lit(value=False)
        return rule.offends.fill_null(value=False)

    def _computed(self, frame: pl.LazyFrame) -> pl.LazyFrame | pl.DataFrame:
        """Compute the frame now if it fits in memory."""
        return frame.collect(engine="in-memory") if self._in_memory else frame

    def _flags(self) -> list[pl.Expr]:
        return [pl.col(f"{_PREFIX}{i}") for i in range(len(self._rows))]

    def _raw(self, name: str) -> str:
        """Return the name of the column with the original values."""
        return f"{_PREFIX}raw_{name}" if name in self._conversions else name

    def _row_count(self, rows: int) -> Iterator[Finding]:
        wanted = self._config.rows
        if rows < wanted.min:
            yield table_finding("rows", None, f"{rows} rows, fewer than {wanted.min}", rows)
        if wanted.max is not None and rows > wanted.max:
            yield table_finding("rows", None, f"{rows} rows, more than {wanted.max}", rows)

    def _require(self) -> None:
        """Add a finding for each missing required column: `required`, or by default all columns that rules name."""
        config = self._config
        named = [*config.schema_, *config.not_null, *(name for key in config.unique for name in key)]
        named += [*config.ranges, *config.patterns, *config.allowed]
        wanted = named if config.required is None else config.required
        for name in missing_columns(wanted, self._schema):
            self._add(table_finding("required", name, f"column {name!r} is missing"))

    def _require_types(self) -> dict[str, DataType]:
        """Return the columns that rules can check, with their types after conversion."""
        usable: dict[str, DataType] = {}
        for name, dtype in self._schema.items():
            wanted = self._config.schema_.get(name)
            settled = dtype if wanted is None else self._settled(name, dtype, wanted)
            if settled is not None:
                usable[name] = settled
        return usable

    def _settled(self, name: str, dtype: DataType, wanted: str) -> DataType | None:
        """Plan the type rule of a column and return its type, or None if other rules cannot check the column."""
        target = parse_dtype(wanted)
        fits = accepts(wanted, dtype)
        if fits and not (self._config.coerce and isinstance(dtype, pl.Null)):
            return dtype
        after = conversion(pl.col(name), dtype, target)
        if self._config.coerce and after is not None:
            self._conversions[name] = after
            self._add_type_rule(name, wanted, unconverted(pl.col(self._raw(name)), pl.col(name)))
            return target
        if after is not None and target.is_integer() and dtype.is_numeric():  # accept whole numbers in a float column
            self._add_type_rule(name, wanted, unconverted(pl.col(name), after))
            return dtype
        remedy = "; 'coerce: true' converts it" if after is not None else ""
        finding = table_finding("type", name, f"column {name!r} is {friendly_name(dtype)}, expected {wanted}{remedy}")
        self._table_tests.append((pl.col(name).count() == 0, finding))  # a column without values satisfies every type
        return None

    def _add_type_rule(self, name: str, wanted: str, offends: pl.Expr) -> None:
        self._add(RowRule("type", name, wanted, offends, pl.col(self._raw(name))))

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
        yield from self._planned_by_type()

    def _planned_by_type(self) -> Iterator[RowRule | Finding]:
        config, types = self._config, self._types
        yield from (row_rules.within(n, bounds, types[n]) for n, bounds in config.ranges.items() if n in types)
        yield from (row_rules.matching(n, pattern, types[n]) for n, pattern in config.patterns.items() if n in types)
        yield from (row_rules.one_of(n, values, types[n]) for n, values in config.allowed.items() if n in types)

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
            message = f"{path}: must be boolean, returns {friendly_name(dtype)}: {text!r}"
            raise StageError(message, ErrorClass.CODE)
        if is_aggregate(expression, text, path, schema):
            finding = table_finding("check", None, f"check {name!r} failed: {text}")
            self._table_tests.append((expression, finding))
        else:
            self._add(row_rules.check(name, text, expression, columns))
