"""Rules on the values of columns, each as an expression that is true for the rows that offend.

Missing values (null) offend against `not_null` only. A rule that cannot be applied to a column of that type is a
finding about the table instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
from polars.datatypes import DataType

from flexiroaster.operators.casting import literal
from flexiroaster.operators.dtypes import accepts, friendly_name
from flexiroaster.operators.validations.outcome import Finding, reason

if TYPE_CHECKING:
    from flexiroaster.operators.validations.rules import RangeRule

__all__ = ["RowRule", "check", "matching", "not_null", "one_of", "table_finding", "unique", "whole_value", "within"]

SHOWN_ALLOWED = 10

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class RowRule:
    """`offends` is true for invalid rows; `value` is what an example shows, None where there is nothing to show.

    `never`, if given, is a quicker question about all rows: where the answer is true, no row offends.
    """

    rule: str
    column: str | None
    detail: str
    offends: pl.Expr
    value: pl.Expr | None
    never: pl.Expr | None = None

    @property
    def reason(self) -> str:
        """What the rows that it picks offend against."""
        return reason(self.rule, self.column, self.detail)


def table_finding(rule: str, column: str | None, sentence: str, count: int = 0) -> Finding:
    """A finding about the table as a whole."""
    return Finding(rule, column, count, sentence, table=True)


def not_null(name: str, dtype: DataType) -> RowRule:
    """Neither null nor NaN."""
    missing = pl.col(name).is_null()
    if dtype.is_float():
        missing |= pl.col(name).is_nan()
    return RowRule("not_null", name, "", missing, None)


def unique(key: Sequence[str]) -> RowRule:
    """No repetition of an earlier row's key; keys with a missing part are not compared, as in SQL."""
    value = pl.col(key[0]) if len(key) == 1 else pl.struct(key)
    complete = pl.all_horizontal(pl.col(name).is_not_null() for name in key)
    distinct = value.hash().n_unique() == pl.len()  # of numbers, thrice as fast; equal values have equal hashes
    return RowRule("unique", ", ".join(key), "", complete & ~value.is_first_distinct(), value, distinct)


def within(name: str, bounds: RangeRule, dtype: DataType) -> RowRule | Finding:
    """Neither below `min` nor above `max`."""
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
        inside.append(column.is_not_nan())  # polars takes NaN for greater than any number
    return RowRule("range", name, ", ".join(details), ~pl.all_horizontal(inside), column)


def matching(name: str, pattern: str, dtype: DataType) -> RowRule | Finding:
    """The pattern matches the whole text."""
    if not accepts("string", dtype):
        kind = friendly_name(dtype)
        return table_finding("pattern", name, f"pattern of column {name!r} needs text, the column is {kind}")
    text = pl.col(name).cast(pl.String)
    return RowRule("pattern", name, pattern, ~text.str.contains(whole_value(pattern)), text)


def whole_value(pattern: str) -> str:
    """The regular expression for a value as a whole."""
    return rf"\A(?:{pattern})\z"


def one_of(name: str, values: Sequence[Value], dtype: DataType) -> RowRule | Finding:
    """One of the values."""
    kind = pl.String() if accepts("string", dtype) else dtype
    known = []
    for value in values:
        fitted = literal(value, kind)
        if fitted is None:
            return _misfit("allowed", name, value, dtype)
        known.append(pl.select(fitted).item())
    column = pl.col(name).cast(kind)
    shown = ", ".join(map(str, values[:SHOWN_ALLOWED])) + (", ..." if len(values) > SHOWN_ALLOWED else "")
    return RowRule("allowed", name, shown, ~column.is_in(pl.Series(known, dtype=kind).implode()), column)


def check(name: str, text: str, holds: pl.Expr, columns: Sequence[str]) -> RowRule:
    """An SQL expression that is not false."""
    shown = pl.struct(list(dict.fromkeys(columns))) if columns else None
    return RowRule("check", None, f"{name}: {text}", ~holds, shown)


def _bound(value: Value, dtype: DataType) -> pl.Expr | None:
    """A number as it is (0.5 bounds integers too); anything else as the column's type."""
    if dtype.is_numeric():
        return None if isinstance(value, str | bool) else pl.lit(value)
    return literal(value, dtype)


def _misfit(rule: str, name: str, value: Value, dtype: DataType) -> Finding:
    return table_finding(
        rule, name, f"{rule} of column {name!r}: {value!r} does not fit a column that is {friendly_name(dtype)}"
    )
