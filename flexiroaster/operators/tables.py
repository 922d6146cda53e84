"""Tables between polars and user code: pandas frames out, whatever a function returns back in.

To pandas: plain numpy types as everybody knows them, with one exception. Integers and booleans with missing values
become pandas' nullable `Int64` (and its like) and `boolean`: as floats, ids beyond 2**53 would silently change. Dates
become `datetime64`, text pandas' `str`.

From pandas: NaN is a missing value. Row labels that mean something (a named index, dates, text) become columns; the
numbers that filtering or sorting leave behind are dropped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from flexiroaster.errors import ErrorClass, StageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_returned", "to_pandas"]

KINDS = "a pandas or polars DataFrame, a pyarrow Table, a list of dicts or a dict of columns"


def to_pandas(table: pl.DataFrame) -> pd.DataFrame:
    """The table as a pandas frame with a default index."""
    frame = table.to_pandas()
    for series in table.iter_columns():
        if series.null_count() and (series.dtype.is_integer() or series.dtype == pl.Boolean):
            frame[series.name] = _nullable(series)
    return frame


def _nullable(series: pl.Series) -> Any:  # noqa: ANN401 - a pandas extension array, which has no public common type
    import pandas as pd

    name = "boolean" if series.dtype == pl.Boolean else str(series.dtype)
    if name.endswith("128"):  # pandas has no such integer
        return series.to_pandas()
    dtype: Any = pd.api.types.pandas_dtype(name)
    return dtype.__from_arrow__(series.to_arrow())


def from_returned(value: object, function: str) -> pl.LazyFrame | pl.DataFrame:
    """The table that a function returned, in any of the forms that are tables.

    Raises StageError (code) for another type, data for columns that no table can hold; `function` names it.
    """
    try:
        table = _table(value, function)
    except (ValueError, TypeError, NotImplementedError, pl.exceptions.PolarsError) as error:
        # pyarrow's own errors derive from these built-in ones
        column = _offending_column(value)
        which = f"column {column!r} of what {function} returned" if column else f"what {function} returned"
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"{which} cannot be made a table: {reason}", ErrorClass.DATA) from error
    if isinstance(table, pl.DataFrame):
        _refuse_objects(table, function)
    return table


def _table(value: object, function: str) -> pl.LazyFrame | pl.DataFrame:
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
        return pl.DataFrame(columns, strict=False)  # 1 beside 2.5 is a number, 1 beside "x" text, as in a list of dicts
    if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        for row in value:
            _require_names(row, function)
        return pl.DataFrame(value, infer_schema_length=None)
    raise StageError(f"{function} returned {_kind(value)}, expected a table ({KINDS})", ErrorClass.CODE)


def _is_instance(value: object, module: str, name: str) -> bool:
    """Whether the value is of a class of a module, without importing that where nobody did."""
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _kind(value: object) -> str:
    """What a value is, for people."""
    if value is None:
        return "None"
    if isinstance(value, list):
        inner = next((type(row).__name__ for row in value if not isinstance(row, Mapping)), "")
        return f"a list of {inner}"
    hint = "; use .to_frame() or .reset_index()" if _is_instance(value, "pandas", "Series") else ""
    return f"{type(value).__name__}{hint}"


def _from_pandas(value: Any, function: str) -> pl.DataFrame:  # noqa: ANN401 - a pandas frame, imported by its maker
    import pandas as pd

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
    return table if isinstance(table, pl.DataFrame) else table.to_frame()


def _column(name: object, values: object, function: str) -> object:
    if isinstance(values, str | bytes | bool | int | float) or values is None:
        message = f"{function} returned a dict whose column {name!r} is {type(values).__name__}, expected a list"
        raise StageError(message, ErrorClass.CODE)
    return values


def _require_names(names: Iterable[object], function: str) -> None:
    """Raise StageError (code) unless column names are text and differ."""
    counted = Counter(list(names))  # of a mapping, Counter would take the values for counts
    for name, times in counted.items():
        if not isinstance(name, str):
            message = f"{function} returned a column named {name!r} ({type(name).__name__}): column names must be text"
            raise StageError(message, ErrorClass.CODE)
        if times > 1:
            raise StageError(f"{function} returned {times} columns named {name!r}", ErrorClass.CODE)


def _offending_column(value: object) -> str | None:
    """The first column that cannot be converted on its own."""
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
            message = f"column {name!r} of what {function} returned holds Python objects: make them text or numbers"
            raise StageError(message, ErrorClass.DATA)
