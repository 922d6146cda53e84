"""NDJSON: one JSON object per line.

Polars reads files that have one type per column; other files are parsed exactly here.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from flexiroaster.operators.inputs.failures import damaged
from flexiroaster.operators.inputs.json import kind_of_json, labelled
from flexiroaster.operators.inputs.options import ReadOptions
from flexiroaster.operators.inputs.overrides import require_new_column, with_types
from flexiroaster.operators.inputs.sources import Source
from flexiroaster.operators.inputs.spool import Spool

__all__ = ["read_exactly", "scan"]

_LINES = 20_000

Overrides = Mapping[str, pl.DataType]


class _UncommonTypeError(Exception):
    """Polars infers types that other systems do not support."""


def scan(sources: Sequence[Source], options: ReadOptions, overrides: Overrides, folder: Path) -> pl.LazyFrame:
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
        frame = read_exactly(filled, options.file_column, folder / "lines")
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
        frames = [_labelled(f, options.file_column, s, joint) for f, s in zip(frames, sources, strict=True)]
    return pl.concat(frames, how="vertical")


def _is_common(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return _is_common(pl.Series(dtype=dtype.inner).dtype)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_is_common(pl.Series(dtype=field.dtype).dtype) for field in dtype.fields)
    return not isinstance(dtype, pl.Int128)


def _labelled(frame: pl.LazyFrame, column: str, source: Source, schema: pl.Schema) -> pl.LazyFrame:
    require_new_column(column, schema.names(), source.label)
    return frame.with_columns(pl.lit(source.label).alias(column))


def _without_wildcards(path: Path, folder: Path) -> Path:
    """A path that polars reads as one file: `scan_ndjson` always expands wildcards."""
    if not glob.has_magic(str(path)):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"link-{sum(1 for _ in folder.iterdir()):05d}"
    link.symlink_to(path)
    return link


def _is_blank(path: Path) -> bool:
    with path.open("rb") as file:
        return all(not line.strip() for line in file)


def read_exactly(sources: Sequence[Source], file_column: str | None, folder: Path) -> pl.LazyFrame:
    """Parse every line here and infer types from all values: slower, in pieces, but errors name the line."""
    spool = Spool(folder)
    for source in sources:
        records = _records(source)
        if file_column is not None:
            records = (labelled(record, file_column, source.label) for record in records)
        while piece := list(islice(records, _LINES)):
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
            raise damaged(place, "is not UTF-8 text") from error
        raise damaged(place, f"not valid JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(value, dict):
        raise damaged(place, f"is {kind_of_json(value)}, not an object")
    return value
