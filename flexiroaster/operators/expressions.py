"""SQL expressions over the columns of one table, such as `dep_delay > 60 AND carrier = 'UA'` or `SUM(x) / COUNT(*)`.

Polars parses and runs them; Python's `eval` is never used. Polars SQL can also open files (`read_csv('...')`). This
module refuses such functions, because they would bypass the installation's file access rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl
from polars.exceptions import PolarsError

from flexiroaster.errors import Problem, StageError, code_error, first_line
from flexiroaster.operators.tables import require_columns

if TYPE_CHECKING:
    from polars.datatypes import DataType

__all__ = ["check_expression", "dtype_of", "find_file_function_error", "is_aggregate", "parse", "parse_for_schema"]

# Match these words anywhere, also in quotes or in a comment: a false positive is harmless, but a false negative can
# read any file. The second branch covers table functions that a later polars may add.
_FILE_FUNCTION = re.compile(
    r"\b(read_(?:csv|ipc|json|ndjson|parquet))\b|\b((?:read|scan)_\w+)[\"`]?\s*\(", re.IGNORECASE
)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_SUBQUERY = re.compile(r"\bselect\b", re.IGNORECASE)


def find_file_function_error(text: str) -> str | None:
    """Return the reason to refuse an SQL text that opens files, or None."""
    match = _FILE_FUNCTION.search(text)
    if match is None:
        return None
    return f"{(match[1] or match[2]).upper()} is not allowed in SQL: read files with an input stage"


def check_expression(text: str, path: str) -> Iterator[Problem]:
    """Yield the problem of an expression that does not parse; its columns are not checked."""
    try:
        parse(text, path)
    except StageError as error:
        yield Problem(path, error.message.removeprefix(f"{path}: "), "expression")


def parse(text: str, path: str) -> pl.Expr:
    """Parse an SQL text. Raises StageError (code) that names the config field `path`."""
    reason = find_file_function_error(text)
    if reason is None and _SUBQUERY.search(_QUOTED.sub("''", text)):
        reason = "a query inside an expression is not supported: use a stage with the operation 'sql'"
    if reason is None:
        try:
            expression = pl.sql_expr(text)
        except PolarsError as error:
            raise code_error(_describe_problem(text, path, _syntax_problem(error, text))) from error
        if not expression.meta.has_multiple_outputs():
            return expression
        reason = "an expression must return one column, this one returns several"
    raise code_error(_describe_problem(text, path, reason))


def parse_for_schema(text: str, path: str, schema: pl.Schema, where: str) -> pl.Expr:
    """Parse an expression and check it against the columns of a table; `where` names the table in messages.

    Raises StageError: code for a syntax error, data for a missing column.
    """
    expression = parse(text, path)
    names = expression.meta.root_names()
    require_columns(names, schema, where, _quoting_hint(text, names, schema))
    return expression


def dtype_of(expression: pl.Expr, text: str, path: str, schema: pl.Schema) -> DataType:
    """Return the result type of an expression over a schema. Raises StageError (code) if types do not match."""
    try:
        (dtype,) = pl.LazyFrame(schema=schema).select(expression).collect_schema().dtypes()
    except PolarsError as error:
        raise code_error(f"{path}: {first_line(error)}: {text!r}") from error
    return dtype


def is_aggregate(expression: pl.Expr, text: str, path: str, schema: pl.Schema) -> bool:
    """Return whether an expression returns one value for many rows.

    The expression is evaluated on two rows of nulls, because polars' `meta.is_scalar` does not know the schema. Raises
    StageError (code) if types do not match.
    """
    try:
        rows = pl.DataFrame(schema=schema).clear(2).select(expression).height
    except PolarsError as error:
        raise code_error(f"{path}: {first_line(error)}: {text!r}") from error
    return rows == 1


def _syntax_problem(error: BaseException, text: str) -> str:
    """Return the reason for a syntax error, as precisely as polars reports it."""
    if not text.strip():
        return "the expression is empty"
    reason = first_line(error)
    return "cannot be parsed as an SQL expression" if reason.startswith("unable to parse") else reason


def _describe_problem(text: str, path: str, reason: str) -> str:
    shown = "" if text in reason else f": {text!r}"
    return f"{path}: {reason}{shown}"


def _quoting_hint(text: str, names: Iterable[str], schema: pl.Schema) -> str:
    """Return a hint for the most common mistake: text in double quotes, which SQL reads as a column name."""
    quoted = [name for name in names if name not in schema and f'"{name}"' in text]
    return f" text is written in single quotes: '{quoted[0]}';" if quoted else ""
