"""JSON documents, read whole: an array of objects, or one object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from flexiroaster.operators.inputs.failures import damaged, not_utf8
from flexiroaster.operators.inputs.overrides import require_new_column
from flexiroaster.operators.inputs.sources import Source
from flexiroaster.operators.inputs.type_inference import table_of

__all__ = ["array_of_objects", "kind_of_json", "labelled", "parse_file", "read_json", "records_of"]


def read_json(sources: Sequence[Source], file_column: str | None) -> pl.LazyFrame:
    """Read the records of all documents as one table. Raises StageError (data) that names the file and the position."""
    records: list[dict[str, Any]] = []
    for source in sources:
        found = records_of(parse_file(source.path, source.label), source.label)
        records += found if file_column is None else [labelled(r, file_column, source.label) for r in found]
    return table_of(records).lazy()


def parse_file(path: Path, label: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse the JSON value in a file. Raises StageError (data) with line and column."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise damaged(label, "file is empty")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "UTF-8" in error.msg:
            raise damaged(label, not_utf8(path) or "is not UTF-8 text") from error
        raise damaged(label, f"line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from error


def records_of(value: object, label: str) -> list[dict[str, Any]]:
    """The objects of an array, or one object as the only record. Raises StageError (data) that names the index."""
    return [value] if isinstance(value, dict) else array_of_objects(value, label)


def array_of_objects(value: object, label: str) -> list[dict[str, Any]]:
    """Return the value if it is an array of objects. Raises StageError (data) that names the index of another value."""
    if not isinstance(value, list):
        raise damaged(label, f"expected an array of objects, found {kind_of_json(value)}")
    for index, record in enumerate(value):
        if not isinstance(record, dict):
            raise damaged(label, f"record [{index}] is {kind_of_json(record)}, not an object")
    return value


def kind_of_json(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names = {bool: "a boolean", str: "a string", list: "an array", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def labelled(record: dict[str, Any], column: str, label: str) -> dict[str, Any]:
    """The record with one more field, the name of its file. Raises StageError if it already has that field."""
    require_new_column(column, list(record), label)
    return {**record, column: label}
