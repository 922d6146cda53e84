"""The columns of an operator's input: asked for by name, with an answer that helps where one is not there.

A table without any column is what an input gives that found no records: nobody knows its columns then. Operators with
one input hand it on (`is_blank`), so that a quiet day is not a failure.
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
"""A config field that holds one column name, or a list of them."""


def input_schema(context: StageContext) -> pl.Schema:
    """The columns of the only input table and their types; reads metadata only."""
    return context.table.collect_schema()


def is_blank(context: StageContext) -> bool:
    """Whether the only input table has no columns at all; a warning in the stage's log says that it is handed on."""
    if input_schema(context):
        return False
    context.logger.warning("the input of stage %r is empty: it has no columns and no rows", context.stage_id)
    return True


def input_of(context: StageContext) -> str:
    """How messages name the only input."""
    return f"input of stage {context.stage_id!r}"


def named_input(context: StageContext, stage_id: str) -> str:
    """How messages name one of several inputs."""
    return f"input {stage_id!r} of stage {context.stage_id!r}"


def listed(names: Iterable[str]) -> str:
    """`'a', 'b'`, cut where there are very many."""
    known = [repr(name) for name in names]
    more = f", ... ({len(known)} in all)" if len(known) > SHOWN_COLUMNS else ""
    return ", ".join(known[:SHOWN_COLUMNS]) + more if known else "none"


def missing_columns(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """What of the wanted is not there, each once, in the order asked for."""
    there = set(known)
    return [name for name in dict.fromkeys(wanted) if name not in there]


def require_columns(wanted: Iterable[str], known: Sequence[str] | pl.Schema, where: str, note: str = "") -> None:
    """Raise StageError (data) where a wanted column is not there, naming it, the nearest and all there are."""
    missing = missing_columns(wanted, known)
    if not missing:
        return
    hint = near(missing[0], known) if len(missing) == 1 else ""
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{noun} {listed(missing)} not found in {where}{hint or ';'}{note} columns: {listed(known)}"
    raise StageError(message, ErrorClass.DATA, missing=missing)
