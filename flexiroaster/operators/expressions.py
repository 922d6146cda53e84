"""SQL expressions over the columns of one table: `dep_delay > 60 AND carrier = 'UA'`, `SUM(x) / COUNT(*)`.

Polars parses and runs them; nothing is ever handed to Python's `eval`. Polars' SQL can also open files
(`read_csv('...')`): what installations allow stages to read is decided elsewhere, so that these are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl
from polars.exceptions import PolarsError

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.operators.schemas import require_columns

if TYPE_CHECKING:
    from polars.datatypes import DataType

__all__ = ["bind", "check_expression", "dtype_of", "file_access", "first_line", "is_aggregate", "parse"]

# Wherever these words stand, also quoted or in a comment: a false alarm is harmless, a missed one reads any file. The
# second branch is for table functions that a later polars may add.
_FILE_FUNCTION = re.compile(
    r"\b(read_(?:csv|ipc|json|ndjson|parquet))\b|\b((?:read|scan)_\w+)[\"`]?\s*\(", re.IGNORECASE
)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_SUBQUERY = re.compile(r"\bselect\b", re.IGNORECASE)


def first_line(error: BaseException) -> str:
    """What a polars error says, without the query plan that it appends."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":")


def file_access(text: str) -> str | None:
    """The reason to refuse an SQL text that would open files, or None."""
    match = _FILE_FUNCTION.search(text)
    if match is None:
        return None
    return f"{(match[1] or match[2]).upper()} is not allowed in SQL: read files with an input stage"


def check_expression(text: str, path: str) -> Iterator[Problem]:
    """The problem with an expression as such, if there is one; which columns there are is not known yet."""
    try:
        parse(text, path)
    except StageError as error:
        yield Problem(path, error.message.removeprefix(f"{path}: "), "expression")


def parse(text: str, path: str) -> pl.Expr:
    """The expression of an SQL text. Raises StageError (code) that names the config field `path`."""
    reason = file_access(text)
    if reason is None and _SUBQUERY.search(_QUOTED.sub("''", text)):
        reason = "a query inside an expression is not supported: use a stage with the operation 'sql'"
    if reason is None:
        try:
            expression = pl.sql_expr(text)
        except PolarsError as error:
            raise StageError(_not_understood(text, path, _syntax(error, text)), ErrorClass.CODE) from error
        if not expression.meta.has_multiple_outputs():
            return expression
        reason = "an expression gives one column, this one gives several"
    raise StageError(_not_understood(text, path, reason), ErrorClass.CODE)


def bind(text: str, path: str, schema: pl.Schema, where: str) -> pl.Expr:
    """The expression, checked against the columns of a table (`where` names the table in messages).

    Raises StageError: code for syntax, data for a column that is not there.
    """
    expression = parse(text, path)
    names = expression.meta.root_names()
    require_columns(names, schema, where, _quoting_hint(text, names, schema))
    return expression


def dtype_of(expression: pl.Expr, text: str, path: str, schema: pl.Schema) -> DataType:
    """The type an expression gives over a table of this schema. Raises StageError (code) where types do not fit."""
    try:
        (dtype,) = pl.LazyFrame(schema=schema).select(expression).collect_schema().dtypes()
    except PolarsError as error:
        raise StageError(f"{path}: {first_line(error)}: {text!r}", ErrorClass.CODE) from error
    return dtype


def is_aggregate(expression: pl.Expr, text: str, path: str, schema: pl.Schema) -> bool:
    """Whether an expression gives one value for many rows: tried on two rows of nulls, as polars' own answer
    (`meta.is_scalar`) knows no schema. Raises StageError (code) where types do not fit.
    """
    try:
        rows = pl.DataFrame(schema=schema).clear(2).select(expression).height
    except PolarsError as error:
        raise StageError(f"{path}: {first_line(error)}: {text!r}", ErrorClass.CODE) from error
    return rows == 1


def _syntax(error: BaseException, text: str) -> str:
    """What is wrong with the syntax, as far as polars says it."""
    if not text.strip():
        return "the expression is empty"
    reason = first_line(error)
    return "cannot be read as an SQL expression" if reason.startswith("unable to parse") else reason


def _not_understood(text: str, path: str, reason: str) -> str:
    shown = "" if text in reason else f": {text!r}"
    return f"{path}: {reason}{shown}"


def _quoting_hint(text: str, names: Iterable[str], schema: pl.Schema) -> str:
    """The one mistake everybody makes: text in double quotes, which SQL takes for a column."""
    quoted = [name for name in names if name not in schema and f'"{name}"' in text]
    return f" text is written in single quotes: '{quoted[0]}';" if quoted else ""
