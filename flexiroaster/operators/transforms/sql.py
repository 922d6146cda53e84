"""The `sql` transform: runs one query over the input tables in polars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError
from pydantic import Field

from flexiroaster.errors import Problem, StageError, code_error, data_error, first_line
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.operators.base import SOME, Access, Operator, OperatorConfig, StageContext
from flexiroaster.operators.expressions import find_file_function_error
from flexiroaster.operators.tables import listed

__all__ = ["Sql"]

_LEADING = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_UNKNOWN_TABLE = re.compile(r"relation '(.*)' was not found")
_CERTAIN = ("sql parser error", "one (and only one) statement", "unsupported function")
"""Prefixes of polars errors that do not depend on the columns."""


class SqlConfig(OperatorConfig):
    """`query` is one SELECT, or WITH ... SELECT."""

    query: str = Field(
        json_schema_extra={"template": False},
        description="SQL over the input tables. A table's name is its stage id in double quotes, or with _ for - and .",
    )


class Sql(Operator[SqlConfig]):
    """Run one SQL query over the input tables.

    The name of a table is its stage id: `SELECT * FROM "load-data"`, or `load_data` without quotes. Only SELECT and
    WITH are allowed. Queries have no parameters and can read only the input tables.
    """

    stage_type = StageType.TRANSFORM
    name = "sql"
    config_model = SqlConfig
    arity = SOME

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the signature
        """Yield a problem of the query that does not depend on the columns: its syntax or its tables."""
        reason = _refusal(self.config.query)
        if reason is None:
            blank = {stage_id: pl.LazyFrame() for stage_id in dependencies}
            try:
                _execute(self.config.query, blank)
            except StageError as error:
                certain = error.details.get("certain", False)
                reason = error.message.removeprefix("query: ") if certain else None
        if reason:
            yield Problem("query", reason, "query")

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the query result. Raises StageError: code for an invalid query, data for a missing column."""
        reason = _refusal(self.config.query)
        if reason:
            raise code_error(f"query: {reason}")
        return _execute(self.config.query, context.inputs)


def _table_names(inputs: Mapping[str, pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
    """Return the tables by the names that a query can use; stage ids take precedence over underscore spellings."""
    spelled: dict[str, pl.LazyFrame] = {}
    for stage_id, table in inputs.items():
        spelled.setdefault(re.sub(r"[-.]", "_", stage_id), table)
    return {**spelled, **inputs}


def _refusal(query: str) -> str | None:
    """Return the reason to reject a query before polars parses it, or None."""
    rest = query[_LEADING.match(query).end() :] if query.strip() else ""  # type: ignore[union-attr] # it always matches
    keyword = re.match(r"\w*", rest)
    if keyword is None or keyword[0].upper() not in {"SELECT", "WITH"}:
        return "must be one SELECT, or WITH ... SELECT"
    return find_file_function_error(query)


def _execute(query: str, inputs: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the lazy result with resolved columns."""
    try:
        found = pl.SQLContext(_table_names(inputs), eager=False).execute(query)
        found.collect_schema()
    except ColumnNotFoundError as error:
        raise data_error(f"query: {first_line(error)}") from error
    except PolarsError as error:
        text = first_line(error)
        unknown = _UNKNOWN_TABLE.search(text)
        if unknown:
            hint = suggestion_hint(unknown[1], _table_names(inputs)) or ";"
            text = f"unknown table {unknown[1]!r}{hint} tables: {listed(inputs)}"
        certain = bool(unknown) or text.startswith(_CERTAIN)
        raise code_error(f"query: {text}", certain=certain) from error
    return found
