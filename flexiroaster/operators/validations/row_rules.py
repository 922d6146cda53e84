"""Row rules, as expressions that are true for the rows that violate them, and the findings of a validation.

Missing values (null) violate only `not_null`. A rule that does not apply to a column's type becomes a finding about the
whole table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import polars as pl
from polars.datatypes import DataType
from pydantic import Field, model_validator

from flexiroaster.operators.base import OperatorConfig
from flexiroaster.operators.dtypes import accepts, friendly_name, literal

__all__ = [
    "Finding",
    "Outcome",
    "RowRule",
    "allowed_values",
    "in_range",
    "matches_pattern",
    "not_null",
    "sql_check",
    "table_finding",
    "unique",
    "whole_value_pattern",
]


MAX_TEXT = 100
MAX_SHOWN_VALUES = 10

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class RowRule:
    """A rule on rows.

    `violated` is true for invalid rows. `value` is the value for examples, or None if there is nothing to show.
    `never_violated`, if given, is a faster test of the whole table: if it is true, no row violates the rule.
    """

    rule: str
    column: str | None
    detail: str
    violated: pl.Expr
    value: pl.Expr | None
    never_violated: pl.Expr | None = None

    @property
    def reason(self) -> str:
        """The text that describes the violation."""
        return _reason(self.rule, self.column, self.detail)


def table_finding(rule: str, column: str | None, sentence: str, count: int = 0) -> Finding:
    """Return a finding about the whole table."""
    return Finding(rule, column, count, sentence, is_table_level=True)


def not_null(name: str, dtype: DataType) -> RowRule:
    """Return the rule that values are neither null nor NaN."""
    missing = pl.col(name).is_null()
    if dtype.is_float():
        missing |= pl.col(name).is_nan()
    return RowRule("not_null", name, "", missing, None)


def unique(key: Sequence[str]) -> RowRule:
    """Return the rule that no row repeats an earlier key; keys with a missing part are not compared, as in SQL."""
    value = pl.col(key[0]) if len(key) == 1 else pl.struct(key)
    complete = pl.all_horizontal(pl.col(name).is_not_null() for name in key)
    distinct = value.hash().n_unique() == pl.len()  # three times as fast for numbers; equal values have equal hashes
    return RowRule("unique", ", ".join(key), "", complete & ~value.is_first_distinct(), value, distinct)


class RangeRule(OperatorConfig):
    """The bounds of a column; bounds of dates and times are ISO text."""

    min: int | float | str | None = Field(default=None, description="The minimum.")
    max: int | float | str | None = Field(default=None, description="The maximum.")
    exclusive_min: bool = Field(default=False, description="Exclude `min` itself.")
    exclusive_max: bool = Field(default=False, description="Exclude `max` itself.")

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give 'min', 'max' or both")
        both_numbers = isinstance(self.min, int | float) and isinstance(self.max, int | float)
        if both_numbers and self.min > self.max:  # type: ignore[operator] # both are numbers here
            raise ValueError(f"'min' {self.min} is above 'max' {self.max}")
        return self


def in_range(name: str, bounds: RangeRule, dtype: DataType) -> RowRule | Finding:
    """Return the rule that values are neither below `min` nor above `max`."""
    column, inside, details = pl.col(name), [], []
    for key, value in (("min", bounds.min), ("max", bounds.max)):
        if value is None:
            continue
        bound = _bound(value, dtype)
        if bound is None:
            return _misfit("range", name, value, dtype)
        exclusive = bounds.exclusive_min if key == "min" else bounds.exclusive_max
        beyond = column < bound if key == "min" else column > bound
        inside.append(~(beyond | (column == bound)) if exclusive else ~beyond)
        details.append(f"{key} {value}{' exclusive' if exclusive else ''}")
    if dtype.is_float():
        inside.append(column.is_not_nan())  # polars sorts NaN above every number
    return RowRule("range", name, ", ".join(details), ~pl.all_horizontal(inside), column)


def matches_pattern(name: str, pattern: str, dtype: DataType) -> RowRule | Finding:
    """Return the rule that the pattern matches the whole text."""
    if not accepts("string", dtype):
        kind = friendly_name(dtype)
        return table_finding("pattern", name, f"pattern of column {name!r} needs text, the column is {kind}")
    text = pl.col(name).cast(pl.String)
    return RowRule("pattern", name, pattern, ~text.str.contains(whole_value_pattern(pattern)), text)


def whole_value_pattern(pattern: str) -> str:
    """Return the regular expression that matches only a whole value."""
    return rf"\A(?:{pattern})\z"


def allowed_values(name: str, values: Sequence[Value], dtype: DataType) -> RowRule | Finding:
    """Return the rule that each value is one of the given values."""
    kind = pl.String() if accepts("string", dtype) else dtype
    known = []
    for value in values:
        fitted = literal(value, kind)
        if fitted is None:
            return _misfit("allowed", name, value, dtype)
        known.append(pl.select(fitted).item())
    column = pl.col(name).cast(kind)
    shown = ", ".join(map(str, values[:MAX_SHOWN_VALUES])) + (", ..." if len(values) > MAX_SHOWN_VALUES else "")
    return RowRule("allowed", name, shown, ~column.is_in(pl.Series(known, dtype=kind).implode()), column)


def sql_check(name: str, text: str, holds: pl.Expr, columns: Sequence[str]) -> RowRule:
    """Return the rule that an SQL expression is not false."""
    shown = pl.struct(list(dict.fromkeys(columns))) if columns else None
    return RowRule("check", None, f"{name}: {text}", ~holds, shown)


def _bound(value: Value, dtype: DataType) -> pl.Expr | None:
    """Return a bound: a number unchanged (0.5 is a valid bound of integers), other values as the column's type."""
    if dtype.is_numeric():
        return None if isinstance(value, str | bool) else pl.lit(value)
    return literal(value, dtype)


def _misfit(rule: str, name: str, value: Value, dtype: DataType) -> Finding:
    return table_finding(
        rule, name, f"{rule} of column {name!r}: {value!r} does not fit a column of type {friendly_name(dtype)}"
    )


# --- findings ---


@dataclass(frozen=True, slots=True)
class Finding:
    """A violated rule. If `is_table_level` is true, the rule concerns the whole table and `detail` is a sentence."""

    rule: str
    column: str | None
    count: int
    detail: str
    examples: tuple[object, ...] = ()
    is_table_level: bool = False

    def report(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "rule": self.rule,
            "column": self.column,
            "count": self.count,
            "examples": [_plain(value) for value in self.examples],
            "detail": self.detail,
        }

    def sentence(self) -> str:
        """Return a sentence such as `age: range (min 0): 3 rows, such as -1, -7`."""
        if self.is_table_level:
            return self.detail
        shown = ", ".join(repr(_plain(value)) for value in self.examples[:3])
        rows = f"{self.count} row{'' if self.count == 1 else 's'}"
        return f"{_reason(self.rule, self.column, self.detail)}: {rows}{f', such as {shown}' if shown else ''}"


def _reason(rule: str, column: str | None, detail: str) -> str:
    """Return the rule that a row violates, such as `age: range (min 0)`."""
    return f"{f'{column}: ' if column else ''}{rule}{f' ({detail})' if detail else ''}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The findings in a table of `rows` rows."""

    rows: int
    invalid_rows: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def concerns_table(self) -> bool:
        """Whether a finding concerns the whole table."""
        return any(finding.is_table_level for finding in self.findings)

    def report(self) -> dict[str, Any]:
        """Return the outcome as JSON: `valid`, `rows`, `invalid_rows`, and the violated rules."""
        return {
            "valid": not self.findings,
            "rows": self.rows,
            "invalid_rows": self.invalid_rows,
            "rules": [finding.report() for finding in self.findings],
        }

    def message(self) -> str:
        """Return all findings in one line."""
        rows = f"{self.invalid_rows} of {self.rows} row{'' if self.rows == 1 else 's'}"
        head = "the table is invalid" if self.concerns_table else f"{rows} invalid"
        return f"{head}: {'; '.join(finding.sentence() for finding in self.findings)}"


def _plain(value: object) -> object:
    """Return a value as JSON: numbers, booleans and text as they are, other values as text; long text is truncated."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
