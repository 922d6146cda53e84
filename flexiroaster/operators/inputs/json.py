"""JSON records: from documents, from lines (ndjson), and passed with the call (`source: api`)."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from flexiroaster.errors import data_error
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import NONE, Operator, OperatorConfig, StageContext
from flexiroaster.operators.formats import not_utf8, numbered_path
from flexiroaster.operators.inputs.sources import ReadOptions, Source, require_new_column, with_types
from flexiroaster.operators.inputs.type_inference import Spool, table_of

__all__ = ["ApiInput", "parse_file", "read_json", "records_of", "scan_ndjson"]

_LINES_PER_PIECE = 20_000

Overrides = Mapping[str, pl.DataType]


class ApiConfig(OperatorConfig):
    """`data` holds the records themselves. `endpoint` documents where they come from; nothing is fetched."""

    endpoint: str | None = None
    data: list[dict[str, Any]] | None = None


class ApiInput(Operator[ApiConfig]):
    """Read the records passed with the call.

    `config.data` takes precedence over the execution's variable `records`. Without either, the table is empty and a
    warning is logged. Types are inferred from all records: mixed values become text, nested values become structs,
    lists or JSON.
    """

    stage_type = StageType.INPUT
    name = "api"
    config_model = ApiConfig
    arity = NONE

    def run(self, context: StageContext) -> pl.DataFrame:
        """Return the records as a table. Raises StageError (data) that names the first record that is not an object."""
        if self.config.data is not None:
            return table_of(self.config.data)
        given = context.variables.get("records")
        if given is None:
            context.logger.warning(
                "no records were passed with the call (config.data or variable 'records'): the table is empty"
            )
            return table_of([])
        return table_of(_array_of_objects(given, "variable 'records'"))


# --- documents, read whole ---


def read_json(sources: Sequence[Source], file_column: str | None) -> pl.LazyFrame:
    """Read the records of all documents as one table. Raises StageError (data) that names the file and the position."""
    records: list[dict[str, Any]] = []
    for source in sources:
        found = records_of(parse_file(source.path, source.label), source.label)
        records += found if file_column is None else [_with_label(r, file_column, source.label) for r in found]
    return table_of(records).lazy()


def parse_file(path: Path, label: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse the JSON value in a file. Raises StageError (data) with line and column."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise data_error(f"{label}: file is empty")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "UTF-8" in error.msg:
            raise data_error(f"{label}: {not_utf8(path) or 'is not UTF-8 text'}") from error
        raise data_error(f"{label}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from error


def records_of(value: object, label: str) -> list[dict[str, Any]]:
    """The objects of an array, or one object as the only record. Raises StageError (data) that names the index."""
    return [value] if isinstance(value, dict) else _array_of_objects(value, label)


def _array_of_objects(value: object, label: str) -> list[dict[str, Any]]:
    """Return the value if it is an array of objects. Raises StageError (data) that names the index of another value."""
    if not isinstance(value, list):
        raise data_error(f"{label}: expected an array of objects, found {_kind_of_json(value)}")
    for index, record in enumerate(value):
        if not isinstance(record, dict):
            raise data_error(f"{label}: record [{index}] is {_kind_of_json(record)}, not an object")
    return value


def _kind_of_json(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names = {bool: "a boolean", str: "a string", list: "an array", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def _with_label(record: dict[str, Any], column: str, label: str) -> dict[str, Any]:
    """The record with one more field, the name of its file. Raises StageError if it already has that field."""
    require_new_column(column, list(record), label)
    return {**record, column: label}


# --- ndjson: one object per line ---


class _UncommonTypeError(Exception):
    """Polars infers types that other systems do not support."""


def scan_ndjson(sources: Sequence[Source], options: ReadOptions, overrides: Overrides, folder: Path) -> pl.LazyFrame:
    """Read the objects of all files as rows; a key that is missing in a line or in a whole file is null.

    Raises StageError (data) with file and line for a line that is not a JSON object.
    """
    filled = [source for source in sources if not _is_blank(source.path)]
    if not filled:
        added = {options.file_column: pl.String()} if options.file_column else {}
        return pl.LazyFrame(schema={**overrides, **added})
    try:
        frame = _scan_lazily(filled, options, folder)
    except (PolarsError, PanicException, _UncommonTypeError):
        frame = _read_exactly(filled, options.file_column, folder / "lines")
    return with_types(frame, overrides, filled[0].label)


def _scan_lazily(sources: Sequence[Source], options: ReadOptions, folder: Path) -> pl.LazyFrame:
    """Scan with polars and raise its errors. Without `infer_rows`, all rows are read to find values that do not fit."""
    rows = options.infer_rows if "infer_rows" in options.model_fields_set else None
    paths = [_without_wildcards(source.path, folder) for source in sources]
    found = [pl.scan_ndjson(path, infer_schema_length=rows).collect_schema() for path in paths]
    joint = pl.concat([pl.DataFrame(schema=schema) for schema in found], how="diagonal_relaxed").schema
    if not all(map(_is_common, joint.values())):
        raise _UncommonTypeError
    frames = [pl.scan_ndjson(path, schema=joint) for path in paths]
    if rows is None:
        for frame in frames:
            frame.select(pl.all().null_count()).collect(engine="streaming")
    if options.file_column:
        frames = [_add_label(f, options.file_column, s, joint) for f, s in zip(frames, sources, strict=True)]
    return pl.concat(frames, how="vertical")


def _is_common(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return _is_common(pl.Series(dtype=dtype.inner).dtype)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_is_common(pl.Series(dtype=field.dtype).dtype) for field in dtype.fields)
    return not isinstance(dtype, pl.Int128)


def _add_label(frame: pl.LazyFrame, column: str, source: Source, schema: pl.Schema) -> pl.LazyFrame:
    require_new_column(column, schema.names(), source.label)
    return frame.with_columns(pl.lit(source.label).alias(column))


def _without_wildcards(path: Path, folder: Path) -> Path:
    """A path that polars reads as one file: `scan_ndjson` always expands wildcards."""
    if not glob.has_magic(str(path)):
        return path
    link = numbered_path(folder, "link-")
    link.symlink_to(path)
    return link


def _is_blank(path: Path) -> bool:
    with path.open("rb") as file:
        return all(not line.strip() for line in file)


def _read_exactly(sources: Sequence[Source], file_column: str | None, folder: Path) -> pl.LazyFrame:
    """Parse every line here and infer types from all values: slower, in pieces, but errors name the line."""
    spool = Spool(folder)
    for source in sources:
        records = _records(source)
        if file_column is not None:
            records = (_with_label(record, file_column, source.label) for record in records)
        while piece := list(islice(records, _LINES_PER_PIECE)):
            spool.append_records(piece)
    return spool.finish()


def _records(source: Source) -> Iterator[dict[str, Any]]:
    with source.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield _record(text, f"{source.label}: line {number}")


def _record(text: bytes, place: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "UTF-8" in error.msg:
            raise data_error(f"{place}: is not UTF-8 text") from error
        raise data_error(f"{place}: not valid JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(value, dict):
        raise data_error(f"{place}: is {_kind_of_json(value)}, not an object")
    return value
