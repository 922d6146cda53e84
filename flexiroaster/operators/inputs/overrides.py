"""Column types set by the config: every value must fit, or the error says which values do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import near
from flexiroaster.operators.casting import conversion, unconverted
from flexiroaster.operators.dtypes import friendly_name
from flexiroaster.operators.inputs.failures import damaged

__all__ = ["require_columns", "require_new_column", "with_types"]


def with_types(frame: pl.LazyFrame, types: Mapping[str, pl.DataType], label: str) -> pl.LazyFrame:
    """Convert columns of the frame to these types.

    The columns are read once for this, so that values that do not fit are found now. Raises StageError: configuration
    for a column that does not exist or cannot be converted to its type, data for values that do not fit.
    """
    if not types:
        return frame
    schema = frame.collect_schema()
    require_columns(list(types), schema.names(), "schema", label)
    converted = {name: _converted(name, schema[name], dtype, label) for name, dtype in types.items()}
    misfits = frame.select(
        pl.struct(
            pl.col(name).filter(unconverted(pl.col(name), after)).len().alias("count"),
            pl.col(name).filter(unconverted(pl.col(name), after)).first().cast(pl.String, strict=False).alias("first"),
        ).alias(name)
        for name, after in converted.items()
    ).collect(engine="streaming")
    for name, found in misfits.row(0, named=True).items():
        if found["count"]:
            values = "1 value does" if found["count"] == 1 else f"{found['count']} values do"
            what = f"{values} not fit {friendly_name(types[name])}, such as {found['first']!r}"
            raise damaged(label, f"column {name!r}: {what}")
    return frame.with_columns(after.alias(name) for name, after in converted.items())


def _converted(name: str, source: pl.DataType, target: pl.DataType, label: str) -> pl.Expr:
    after = conversion(pl.col(name), source, target)
    if after is None:
        kinds = f"{friendly_name(source)}, which cannot become {friendly_name(target)}"
        message = f"schema: column {name!r} of {label} is {kinds}"
        raise StageError(message, ErrorClass.CONFIGURATION)
    return after


def require_columns(wanted: Sequence[str], there: Sequence[str], field: str, label: str) -> None:
    """Raise StageError (configuration), with the nearest names, for the first column that does not exist."""
    for name in wanted:
        if name not in there:
            message = f"{field}: {label} has no column {name!r}{near(name, there)}"
            raise StageError(message, ErrorClass.CONFIGURATION)


def require_new_column(name: str, taken: Sequence[str], label: str) -> None:
    """Raise StageError (configuration) if the column to be added already exists."""
    if name in taken:
        raise StageError(f"file_column: {label} already has a column {name!r}", ErrorClass.CONFIGURATION)
