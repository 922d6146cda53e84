"""Tables of operators: checks of input columns by name, and conversion from and to the tables of user code.

To pandas: columns get plain numpy types, with one exception. Integers and booleans with missing values become the
nullable pandas types `Int64` (and similar) and `boolean`, because as floats, ids beyond 2**53 would silently change.
Dates become `datetime64`, text becomes `str`.

From pandas: NaN is a missing value. Meaningful row labels (a named index, dates, text) become columns; the row numbers
of a default index, also after filtering or sorting, are dropped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from flexiroaster.errors import code_error, data_error
from flexiroaster.model.validation_messages import suggestion_hint

if TYPE_CHECKING:  # checking a definition must not wait for the import of polars
    import pandas as pd
    import polars as pl

    from flexiroaster.operators.base import StageContext

__all__ = [
    "ColumnNames",
    "describe_input",
    "has_no_columns",
    "listed",
    "missing_columns",
    "require_columns",
    "table_from_return_value",
    "to_pandas",
]


MAX_SHOWN_COLUMNS = 40
KINDS = "a pandas or polars DataFrame, a pyarrow Table, a list of dicts or a dict of columns"


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


ColumnNames = Annotated[list[str], BeforeValidator(_as_list)]
"""The type of a config field that holds one column name or a list of names."""


def has_no_columns(context: StageContext) -> bool:
    """Return whether the single input table has no columns; if so, log a warning in the stage's log."""
    if context.table.collect_schema():
        return False
    context.logger.warning("the input of stage %r is empty: it has no columns and no rows", context.stage_id)
    return True


def describe_input(context: StageContext, stage_id: str | None = None) -> str:
    """Return the name of the single input, or of one of several, for messages."""
    return f"input {stage_id!r} of stage {context.stage_id!r}" if stage_id else f"input of stage {context.stage_id!r}"


def listed(names: Iterable[str]) -> str:
    """Return names as `'a', 'b'`, truncated after `MAX_SHOWN_COLUMNS` names."""
    known = [repr(name) for name in names]
    more = f", ... ({len(known)} in total)" if len(known) > MAX_SHOWN_COLUMNS else ""
    return ", ".join(known[:MAX_SHOWN_COLUMNS]) + more if known else "none"


def missing_columns(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the wanted names that are not known, each once, in the given order."""
    present = set(known)
    return [name for name in dict.fromkeys(wanted) if name not in present]


def require_columns(wanted: Iterable[str], known: Sequence[str] | pl.Schema, where: str, note: str = "") -> None:
    """Raise StageError (data) if a wanted column is missing; the message names it, the nearest and all columns."""
    missing = missing_columns(wanted, known)
    if not missing:
        return
    hint = suggestion_hint(missing[0], known) if len(missing) == 1 else ""
    noun = "column" if len(missing) == 1 else "columns"
    raise data_error(
        f"{noun} {listed(missing)} not found in {where}{hint or ';'}{note} columns: {listed(known)}", missing=missing
    )


# --- pandas and user code ---


def to_pandas(table: pl.DataFrame) -> pd.DataFrame:
    """Return the table as a pandas frame with a default index."""
    import polars as pl

    frame = table.to_pandas()
    for series in table.iter_columns():
        if series.null_count() and (series.dtype.is_integer() or series.dtype == pl.Boolean):
            frame[series.name] = _nullable(series)
    return frame


def _nullable(series: pl.Series) -> Any:  # noqa: ANN401 - a pandas extension array, which has no public common type
    import pandas as pd
    import polars as pl

    name = "boolean" if series.dtype == pl.Boolean else str(series.dtype)
    if name.endswith("128"):  # pandas has no 128-bit integers
        return series.to_pandas()
    dtype: Any = pd.api.types.pandas_dtype(name)
    return dtype.__from_arrow__(series.to_arrow())


def table_from_return_value(value: object, function: str) -> pl.LazyFrame | pl.DataFrame:
    """Convert the return value of a function to a table; `function` names it in messages.

    Raises StageError: code for a type that is not a table, data for columns that a table cannot hold.
    """
    import polars as pl

    try:
        table = _table(value, function)
    except (ValueError, TypeError, NotImplementedError, pl.exceptions.PolarsError) as error:
        # pyarrow's own errors derive from these built-in ones
        column = _offending_column(value)
        which = f"column {column!r} of the result of {function}" if column else f"the result of {function}"
        reason = str(error).strip().splitlines()[0]
        raise data_error(f"{which} cannot be converted to a table: {reason}") from error
    if isinstance(table, pl.DataFrame):
        _refuse_objects(table, function)
    return table


def _table(value: object, function: str) -> pl.LazyFrame | pl.DataFrame:
    import polars as pl

    if isinstance(value, pl.LazyFrame | pl.DataFrame):
        return value
    if _is_instance(value, "pandas", "DataFrame"):
        return _from_pandas(value, function)
    if _is_instance(value, "pyarrow", "Table"):
        _require_names(value.column_names, function)  # type: ignore[attr-defined] # known to be a pyarrow Table
        return _frame(pl.from_arrow(value))
    if isinstance(value, Mapping):
        _require_names(value, function)
        columns = {name: _column(name, values, function) for name, values in value.items()}
        return pl.DataFrame(columns, strict=False)  # 1 and 2.5 give numbers, 1 and "x" give text, as in a list of dicts
    if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        for row in value:
            _require_names(row, function)
        return pl.DataFrame(value, infer_schema_length=None)
    raise code_error(f"{function} returned {_describe_type(value)}, expected a table ({KINDS})")


def _is_instance(value: object, module: str, name: str) -> bool:
    """Return whether the value is an instance of a module's class, without importing the module."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _describe_type(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, list):
        inner = next((type(row).__name__ for row in value if not isinstance(row, Mapping)), "")
        return f"a list of {inner}"
    hint = "; use .to_frame() or .reset_index()" if _is_instance(value, "pandas", "Series") else ""
    return f"{type(value).__name__}{hint}"


def _from_pandas(value: Any, function: str) -> pl.DataFrame:  # noqa: ANN401 - a pandas frame; user code imported pandas
    import pandas as pd
    import polars as pl

    frame: pd.DataFrame = value
    index = frame.index
    if any(name is not None for name in index.names) or not pd.api.types.is_integer_dtype(index.dtype):
        standard = ["index"] if index.nlevels == 1 else [f"level_{i}" for i in range(index.nlevels)]
        labels = [default if name is None else name for name, default in zip(index.names, standard, strict=True)]
        _require_names([*labels, *frame.columns], function)
        frame = frame.reset_index(names=labels)
    _require_names(frame.columns, function)
    return _frame(pl.from_pandas(frame.reset_index(drop=True)))


def _frame(table: pl.DataFrame | pl.Series) -> pl.DataFrame:
    import polars as pl

    return table if isinstance(table, pl.DataFrame) else table.to_frame()


def _column(name: object, values: object, function: str) -> object:
    if isinstance(values, str | bytes | bool | int | float) or values is None:
        raise code_error(
            f"{function} returned a dict whose column {name!r} is {type(values).__name__}, expected a list"
        )
    return values


def _require_names(names: Iterable[object], function: str) -> None:
    """Raise StageError (code) unless column names are text and unique."""
    counted = Counter(list(names))  # Counter would read the values of a mapping as counts
    for name, times in counted.items():
        if not isinstance(name, str):
            raise code_error(
                f"{function} returned a column named {name!r} ({type(name).__name__}): column names must be text"
            )
        if times > 1:
            raise code_error(f"{function} returned {times} columns named {name!r}")


def _offending_column(value: object) -> str | None:
    """Return the first column that cannot be converted on its own."""
    import polars as pl

    if not (_is_instance(value, "pandas", "DataFrame") or isinstance(value, Mapping)):
        return None
    columns: Any = value
    for name in columns:
        try:
            pl.Series(name, columns[name], strict=False)
        except (ValueError, TypeError, NotImplementedError, pl.exceptions.PolarsError):
            return str(name)
    return None


def _refuse_objects(table: pl.DataFrame, function: str) -> None:
    for name, dtype in table.schema.items():
        if dtype.is_object():
            raise data_error(
                f"column {name!r} of the result of {function} holds Python objects: make them text or numbers"
            )
