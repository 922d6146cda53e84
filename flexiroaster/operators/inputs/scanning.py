"""Local files of one format as one lazy frame that streams: data larger than memory stays on disk."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from flexiroaster.errors import data_error, first_line
from flexiroaster.operators.dtypes import friendly_name, parse_dtype
from flexiroaster.operators.formats import Format, binary_format_of_file, convert_read_errors, not_utf8, numbered_path
from flexiroaster.operators.inputs.json import read_json, scan_ndjson
from flexiroaster.operators.inputs.sources import (
    LOSSY,
    ReadOptions,
    Source,
    require_named_columns,
    require_new_column,
    with_types,
)
from flexiroaster.operators.tables import listed

__all__ = ["scan"]

_MISFIT = re.compile(r"could not parse `(.*?)` as dtype `(.*?)` at column '(.*?)' \(column number (\d+)\)", re.DOTALL)
_MAX_LINES = 1_000_000
_MAX_SHOWN = 40
_SNIFFED = 1 << 16
_SMALL_BYTES = 8 << 20
_PROBED_ROWS = 1000
_BLOCK = 1 << 20


def scan(sources: Sequence[Source], options: ReadOptions, folder: Path) -> pl.LazyFrame:
    """Scan the rows of all sources (at least one, all of one format), in order.

    Schemas are read and compared now, rows when the frame is collected. Copies go to `folder`. Raises StageError: data
    if a file does not match its format, configuration if the options name columns that do not exist.
    """
    overrides = {name: parse_dtype(dtype) for name, dtype in (options.schema_ or {}).items()}
    for source in sources:
        _refuse_other_format(source)
    match sources[0].format:
        case Format.CSV | Format.TSV:
            frame = _scan_csv(sources, options, overrides, folder)
        case Format.PARQUET | Format.ARROW:
            frame = _scan_columnar(sources, options, overrides, folder)
        case Format.NDJSON:
            frame = scan_ndjson(sources, options, overrides, folder)
        case Format.JSON:
            frame = with_types(read_json(sources, options.file_column), overrides, sources[0].label)
    return _select(frame, options, sources[0].label)


def _refuse_other_format(source: Source) -> None:
    """Check the first and the last bytes, before a parser fails on the bytes between."""
    shown, complete = binary_format_of_file(source.path)
    if shown is not None and shown is not source.format:
        article = "an" if shown is Format.ARROW else "a"
        raise data_error(f"{source.label}: is {article} {shown} file, not {source.format}: set `format`, or rename it")
    if shown is None and source.format is Format.PARQUET and source.path.stat().st_size:
        raise data_error(f"{source.label}: is not a parquet file: it does not begin with PAR1")
    if not complete:
        raise data_error(f"{source.label}: is truncated: it does not end with the marker that it begins with")


def _select(frame: pl.LazyFrame, options: ReadOptions, label: str) -> pl.LazyFrame:
    if options.columns is not None:
        require_named_columns(options.columns, frame.collect_schema().names(), "columns", label)
        extra = [options.file_column] if options.file_column else []
        frame = frame.select(list(dict.fromkeys([*options.columns, *extra])))
    return frame if options.rows is None else frame.head(options.rows)


def _scan_csv(
    sources: Sequence[Source], options: ReadOptions, overrides: Mapping[str, pl.DataType], folder: Path
) -> pl.LazyFrame:
    paths = [_as_utf8(source, options.encoding, folder) for source in sources]
    labels = [source.label for source in sources]
    dialect: dict[str, Any] = {
        "separator": options.separator or ("\t" if sources[0].format is Format.TSV else ","),
        "has_header": options.has_header,
        "quote_char": options.quote,
        "skip_rows": options.skip_rows,
        "encoding": LOSSY if options.encoding == LOSSY else "utf8",
        "glob": False,
    }
    _require_same_header(paths, labels, dialect, options.file_column, list(overrides))
    dialect |= {"null_values": options.null_values or None, "try_parse_dates": options.try_parse_dates}
    with convert_read_errors(labels[0] if len(paths) == 1 else f"{labels[0]} to {labels[-1]}"):
        inferred: dict[str, Any] = {"infer_schema_length": options.infer_rows, "infer_schema_files": len(paths)}
        types = pl.scan_csv(paths, **dialect, **inferred, schema_overrides=dict(overrides)).collect_schema()
    typed = {**dialect, "schema_overrides": types, "infer_schema": False}
    for path, label in [] if sources[0].packed else zip(paths, labels, strict=True):
        with _CsvFile(path, label, dialect, types, overrides).convert_read_errors():
            _probe(pl.scan_csv(path, **typed), path.stat().st_size)
    frame = pl.scan_csv(paths, **typed, include_file_paths=options.file_column)
    if options.file_column:
        names = dict(zip(map(str, paths), labels, strict=True))
        frame = frame.with_columns(pl.col(options.file_column).replace_strict(names, return_dtype=pl.String()))
    return frame


def _probe(frame: pl.LazyFrame, size: int) -> None:
    """Read the beginning, or all of a small file, to find errors now, while the file can be named."""
    rows = frame if size <= _SMALL_BYTES else frame.head(_PROBED_ROWS)
    rows.select(pl.all().null_count()).collect(engine="streaming")


def _require_same_header(
    paths: Sequence[Path], labels: Sequence[str], dialect: Mapping[str, Any], added: str | None, overridden: list[str]
) -> None:
    first: list[str] = []
    for path, label in zip(paths, labels, strict=True):
        with _CsvFile(path, label, dialect).convert_read_errors():
            names = pl.scan_csv(path, **dialect, infer_schema=False).collect_schema().names()
        is_replaced = dialect["encoding"] != LOSSY and any("\ufffd" in name for name in names)
        if is_replaced and (fault := not_utf8(path)):  # polars replaces undecodable bytes in a header
            raise data_error(f"{label}: {fault}")
        first = first or names
        if names != first:
            raise data_error(f"{label}: its columns are {listed(names)}, but those of {labels[0]} are {listed(first)}")
    if added:
        require_new_column(added, first, labels[0])
    require_named_columns(overridden, first, "schema", labels[0])


def _as_utf8(source: Source, encoding: str, folder: Path) -> Path:
    """The file, or a copy of it in UTF-8, after a check that it is text."""
    if source.packed:
        return source.path
    if not source.path.stat().st_size:
        raise data_error(f"{source.label}: file is empty")
    if encoding in {"utf-8", "ascii", LOSSY}:
        with source.path.open("rb") as file:
            if b"\0" in file.read(_SNIFFED):
                raise data_error(
                    f"{source.label}: is not UTF-8 text (it has NUL bytes); if it is UTF-16, set `encoding`"
                )
        return source.path
    target = numbered_path(folder, "utf8-")
    try:
        with (
            source.path.open(encoding=encoding, newline="") as text,
            target.open("w", encoding="utf-8", newline="") as copy,
        ):
            shutil.copyfileobj(text, copy, _BLOCK)
    except UnicodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise data_error(f"{source.label}: is not {encoding} text ({byte})") from error
    return target


def _scan_columnar(
    sources: Sequence[Source], options: ReadOptions, overrides: Mapping[str, pl.DataType], folder: Path
) -> pl.LazyFrame:
    frames = []
    first: pl.Schema | None = None
    for source in sources:
        if not source.path.stat().st_size:
            raise data_error(f"{source.label}: file is empty")
        with convert_read_errors(source.label):
            frame = with_types(_scan_plain(source, folder), overrides, source.label)
            schema = frame.collect_schema()
        first = first or schema
        _require_same_schema(schema, first, source.label, sources[0].label)
        if options.file_column:
            require_new_column(options.file_column, schema.names(), source.label)
            frame = frame.with_columns(pl.lit(source.label).alias(options.file_column))
        frames.append(frame)
    return pl.concat(frames, how="vertical") if len(frames) > 1 else frames[0]


def _scan_plain(source: Source, folder: Path) -> pl.LazyFrame:
    if source.format is Format.PARQUET:
        return pl.scan_parquet(source.path, glob=False, hive_partitioning=False)
    is_file_format = binary_format_of_file(source.path)[0] is Format.ARROW  # the streaming format has no magic bytes
    path = source.path if is_file_format else _arrow_file_of_stream(source, folder)
    return pl.scan_ipc(path, glob=False, hive_partitioning=False)


def _arrow_file_of_stream(source: Source, folder: Path) -> Path:
    """Copy Arrow's streaming format batch by batch into its file format, which can be scanned."""
    import pyarrow as pa

    target = numbered_path(folder, "arrow-")
    try:
        with pa.ipc.open_stream(str(source.path)) as stream, pa.ipc.new_file(str(target), stream.schema) as copy:
            for batch in stream:
                copy.write_batch(batch)
    except (pa.ArrowException, OSError) as error:
        raise data_error(f"{source.label}: is not an Arrow file: {first_line(error)}") from error
    return target


def _require_same_schema(schema: pl.Schema, first: pl.Schema, label: str, first_label: str) -> None:
    if schema.names() != first.names():
        what = f"its columns are {listed(schema.names())}, but those of {first_label} are {listed(first.names())}"
        raise data_error(f"{label}: {what}")
    for name, dtype in schema.items():
        if dtype != first[name]:
            what = f"column {name!r} is {dtype}, but in {first_label} it is {first[name]}: set its type in `schema`"
            raise data_error(f"{label}: {what}")


# --- csv errors, located by line ---


@dataclass(frozen=True, slots=True)
class _CsvFile:
    """A csv file to read.

    `dialect` holds the options of `polars.scan_csv`, `types` the types of its columns, and `overridden` the columns
    whose type the config sets.
    """

    path: Path
    label: str
    dialect: Mapping[str, Any]
    types: Mapping[str, pl.DataType] = field(default_factory=dict)
    overridden: Collection[str] = ()

    @contextmanager
    def convert_read_errors(self) -> Iterator[None]:
        """Turn polars errors into StageError (data) that names the file and, if it can be found, the line."""
        with convert_read_errors(self.label):
            try:
                yield
            except PolarsError as error:
                reason = self._reason(str(error))
                if reason is None:
                    raise
                raise data_error(f"{self.label}: {reason}") from error

    def _reason(self, text: str) -> str | None:
        """Explain the common errors in our own words; None for other errors."""
        if "utf-8" in text:
            return not_utf8(self.path)
        if text.startswith("found more fields"):
            return self._first_long_line()
        found = _MISFIT.match(text)
        if found is None:
            return None
        value, _, column, number = found.groups()
        if value.startswith(self.dialect.get("quote_char") or "\0"):
            place = self._line_of_text(value)
            return f"{place}a quote is not closed, or text follows the closing quote: {_shorten(value)}"
        return self._misfit(value, column, int(number) - 1)

    def _misfit(self, value: str, column: str, index: int) -> str:
        line = next((n for n, row in self._rows() if index < len(row) and row[index] == value), None)
        place = f"line {line}: " if line else ""
        fits = f"{place}column {column!r}: {_shorten(value)} does not fit {friendly_name(self.types[column])}"
        if column in self.overridden:
            return f"{fits}, its type in `schema`"
        return f"{fits}, the type of the first rows: set another type in `schema`"

    def _first_long_line(self) -> str | None:
        wanted = 0
        for line, row in self._rows(header=True):
            wanted = wanted or len(row)
            if len(row) > wanted:
                first = "the header" if self.dialect["has_header"] else "the first line"
                return f"line {line}: has {len(row)} fields, but {first} has {wanted}"
        return None

    def _rows(self, *, header: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's fields with the number of the line where the row ends; the header only if `header`."""
        skipped = self.dialect["skip_rows"]
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
            if self.dialect["quote_char"]:
                quoting = {"quotechar": self.dialect["quote_char"]}
            reader = csv.reader(islice(file, skipped, _MAX_LINES), delimiter=self.dialect["separator"], **quoting)
            try:
                for number, row in enumerate(filter(None, reader)):
                    if header or number or not self.dialect["has_header"]:
                        yield skipped + reader.line_num, row
            except csv.Error:  # a field exceeds the limit of the csv module: no line can be named
                return

    def _line_of_text(self, text: str) -> str:
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            first = text.splitlines()[0]
            line = next((n for n, line in enumerate(islice(file, _MAX_LINES), 1) if first in line), None)
        return f"line {line}: " if line else ""


def _shorten(value: str) -> str:
    return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}...")
