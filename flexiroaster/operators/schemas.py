"""Input columns of operators: checks by name, with helpful messages for missing columns.

An input that finds no records returns a table without columns, because the columns are unknown. Operators with one
input pass such a table on (`is_blank`), so a day without data is not a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import near

if TYPE_CHECKING:
    import polars as pl

    from flexiroaster.operators.base import StageContext

__all__ = [
    "ColumnNames",
    "input_of",
    "input_schema",
    "is_blank",
    "listed",
    "missing_columns",
    "named_input",
    "require_columns",
]

SHOWN_COLUMNS = 40


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


ColumnNames = Annotated[list[str], BeforeValidator(_one_or_many)]
"""The type of a config field that holds one column name or a list of names."""


def input_schema(context: StageContext) -> pl.Schema:
    """Return the schema of the single input table; reads metadata only."""
    return context.table.collect_schema()


def is_blank(context: StageContext) -> bool:
    """Return whether the single input table has no columns; if so, log a warning in the stage's log."""
    if input_schema(context):
        return False
    context.logger.warning("the input of stage %r is empty: it has no columns and no rows", context.stage_id)
    return True


def input_of(context: StageContext) -> str:
    """Return the name of the single input for messages."""
    return f"input of stage {context.stage_id!r}"


def named_input(context: StageContext, stage_id: str) -> str:
    """Return the name of one of several inputs for messages."""
    return f"input {stage_id!r} of stage {context.stage_id!r}"


def listed(names: Iterable[str]) -> str:
    """Return names as `'a', 'b'`, truncated after `SHOWN_COLUMNS` names."""
    known = [repr(name) for name in names]
    more = f", ... ({len(known)} in total)" if len(known) > SHOWN_COLUMNS else ""
    return ", ".join(known[:SHOWN_COLUMNS]) + more if known else "none"


def missing_columns(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the wanted names that are not known, each once, in the given order."""
    there = set(known)
    return [name for name in dict.fromkeys(wanted) if name not in there]


def require_columns(wanted: Iterable[str], known: Sequence[str] | pl.Schema, where: str, note: str = "") -> None:
    """Raise StageError (data) if a wanted column is missing; the message names it, the nearest and all columns."""
    missing = missing_columns(wanted, known)
    if not missing:
        return
    hint = near(missing[0], known) if len(missing) == 1 else ""
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{noun} {listed(missing)} not found in {where}{hint or ';'}{note} columns: {listed(known)}"
    raise StageError(message, ErrorClass.DATA, missing=missing)
