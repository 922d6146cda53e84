"""Sources: plain local files of a known format, found, fetched and decompressed from the paths of a config.

`ReadOptions` are the config fields that all inputs that read files share.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import AfterValidator, ConfigDict, Field

from flexiroaster.errors import configuration_error, data_error
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.operators.access.file_access import fetch, resolve
from flexiroaster.operators.base import Access, OperatorConfig
from flexiroaster.operators.dtypes import DtypeName, conversion, describe_misfits, friendly_name
from flexiroaster.operators.formats import Format, compression_of_file, detect_compression, detect_format, unpack

__all__ = [
    "LOSSY",
    "ReadOptions",
    "Source",
    "fetch_files",
    "gather_sources",
    "plain_sources",
    "require_named_columns",
    "require_new_column",
    "with_types",
]

LOSSY = "utf8-lossy"
"""The encoding of text whose undecodable bytes are replaced."""


def _encoding(name: str) -> str:
    if name == LOSSY:
        return name
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise ValueError(f"unknown encoding {name!r}") from error


def _ascii_character(character: str) -> str:
    if len(character.encode()) != 1:
        raise ValueError(f"must be one ASCII character, not {character!r}")
    return character


Character = Annotated[str, AfterValidator(_ascii_character)]


class ReadOptions(OperatorConfig):
    """`schema` sets the types of columns by name; the other types are inferred.

    For csv and tsv, types are inferred from the first `infer_rows` rows (null: from all rows). For ndjson, they are
    inferred from all rows unless `infer_rows` is set. `rows` limits the number of rows read from all files together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    columns: list[str] | None = Field(default=None, min_length=1, description="Columns to read, in this order.")
    schema_: dict[str, DtypeName] | None = Field(default=None, alias="schema")
    separator: Character | None = Field(default=None, description="Default: a comma; for tsv, a tab.")
    has_header: bool = True
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    quote: Character | None = '"'
    null_values: list[str] = Field(default_factory=list, description="Texts that mean null, besides the empty text.")
    skip_rows: int = Field(default=0, ge=0, description="Lines to skip before the header.")
    infer_rows: int | None = Field(default=10_000, ge=1)
    try_parse_dates: bool = False
    file_column: str | None = Field(default=None, min_length=1, description="Adds a column with the file's name.")
    rows: int | None = Field(default=None, ge=0)


@dataclass(frozen=True, slots=True)
class Source:
    """A local file and its label in messages and the file column. `packed`: a gzip csv; other files are plain."""

    path: Path
    label: str
    format: Format
    packed: bool = False


def fetch_files(paths: Iterable[str], access: Access, folder: Path) -> list[tuple[Path, str]]:
    """Find all files that the paths, globs and URLs name, in that order, each once, with their labels.

    Remote files are fetched into `folder`. Raises StageError.
    """
    found = dict.fromkeys(place for path in paths for place in resolve(path, access))
    return [(fetch(place, folder), place.label) for place in found]


def gather_sources(files: Iterable[tuple[Path, str]], given: str, folder: Path) -> list[Source]:
    """Find plain files of one format; compressed files are decompressed into `folder`. Raises StageError."""
    sources = [source for path, label in files for source in plain_sources(path, label, given, folder)]
    first = sources[0]
    for source in sources:
        if source.format is not first.format:
            formats = f"{source.label} is {source.format}, but {first.label} is {first.format}"
            raise configuration_error(f"{formats}: read them separately")
    return sources


def plain_sources(path: Path, label: str, given: str, folder: Path) -> Iterator[Source]:
    """Yield the file itself, or its contents if its name or its first bytes say that it is compressed."""
    compression = detect_compression(label) or compression_of_file(path)
    inside = unpack(path, compression, folder, label) if compression else [(path, label)]
    for file, name in inside:
        yield Source(file, name, detect_format(name, given, container=label))


def with_types(frame: pl.LazyFrame, types: Mapping[str, pl.DataType], label: str) -> pl.LazyFrame:
    """Convert columns of the frame to these types.

    The columns are read once for this, so that values that do not fit are found now. Raises StageError: configuration
    for a column that does not exist or cannot be converted to its type, data for values that do not fit.
    """
    if not types:
        return frame
    schema = frame.collect_schema()
    require_named_columns(list(types), schema.names(), "schema", label)
    converted = {name: _convert(name, schema[name], dtype, label) for name, dtype in types.items()}
    if problems := describe_misfits(frame, converted, {name: friendly_name(dtype) for name, dtype in types.items()}):
        raise data_error(f"{label}: {'; '.join(problems)}")
    return frame.with_columns(after.alias(name) for name, after in converted.items())


def _convert(name: str, source: pl.DataType, target: pl.DataType, label: str) -> pl.Expr:
    after = conversion(pl.col(name), source, target)
    if after is None:
        kinds = f"{friendly_name(source)}, which cannot become {friendly_name(target)}"
        raise configuration_error(f"schema: column {name!r} of {label} is {kinds}")
    return after


def require_named_columns(wanted: Sequence[str], present: Sequence[str], field: str, label: str) -> None:
    """Raise StageError (configuration), with the nearest names, for the first column that does not exist."""
    for name in wanted:
        if name not in present:
            raise configuration_error(f"{field}: {label} has no column {name!r}{suggestion_hint(name, present)}")


def require_new_column(name: str, taken: Sequence[str], label: str) -> None:
    """Raise StageError (configuration) if the column to be added already exists."""
    if name in taken:
        raise configuration_error(f"file_column: {label} already has a column {name!r}")
