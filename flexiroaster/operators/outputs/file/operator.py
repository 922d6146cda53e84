"""`destination: file`: rows written to one file, local or remote, which is put in place in one step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from flexiroaster.errors import Problem, StageError, configuration_error, data_error
from flexiroaster.operators.access.file_access import Location, check_file_access, writable
from flexiroaster.operators.base import Access, OperatorConfig, OutputOperator, Result, StageContext
from flexiroaster.operators.formats import Format, detect_compression, detect_format
from flexiroaster.operators.outputs.effects import effect_result, fill_placeholders, repeated_result
from flexiroaster.operators.outputs.file.publication import Publication
from flexiroaster.operators.outputs.file.storage import LocalStorage, RemoteStorage
from flexiroaster.operators.outputs.rows import count_rows
from flexiroaster.operators.tables import listed

__all__ = ["FileOutput"]

HIDDEN = ".flexiroaster"
"""The folder for FlexiRoaster's own files; no output writes into one."""

_TEXT_COMPRESSIONS = frozenset({"gzip", "zstd", "uncompressed"})
_COMPRESSIONS: Mapping[str, frozenset[str]] = {
    "csv": _TEXT_COMPRESSIONS,
    "tsv": _TEXT_COMPRESSIONS,
    "json": _TEXT_COMPRESSIONS,
    "ndjson": _TEXT_COMPRESSIONS,
    "parquet": frozenset({"zstd", "snappy", "gzip", "lz4", "brotli", "uncompressed"}),
    "arrow": frozenset({"zstd", "lz4", "uncompressed"}),
}
_PLACEHOLDERS = ("{execution_id}", "{stage_id}", "{date}")
_CSV_ONLY = ("separator", "header", "null_value")
_BLOCK = 1 << 20
_TIMESTAMP_FORMAT = "%Y-%m-%dT%H:%M:%S%.f"
_TEXT_FORMATS = {Format.CSV, Format.TSV, Format.JSON, Format.NDJSON}


class FileOutputConfig(OperatorConfig):
    """Where the rows are written, and in which format."""

    path: str = Field(
        min_length=1,
        description="A path or URL under FILE_ROOTS; `{execution_id}`, `{stage_id}` and `{date}` "
        "(of the first attempt, UTC) are filled in.",
    )
    format: Literal["auto", "csv", "tsv", "parquet", "json", "ndjson", "arrow"] = Field(
        default="auto", description="auto: inferred from the extension."
    )
    compression: Literal["gzip", "zstd", "snappy", "lz4", "brotli", "uncompressed"] | None = Field(
        default=None, description="Default: inferred from the extension; for parquet, zstd."
    )
    separator: str = Field(
        default=",", min_length=1, max_length=1, pattern=r"^[\x01-\x7f]$", description="Separates the values of csv."
    )
    header: bool = Field(default=True, description="Whether csv and tsv begin with the column names.")
    null_value: str = Field(default="", description="Text for a missing value in csv and tsv.")
    overwrite: bool = Field(default=True, description="false: an existing file is an error.")


class FileOutput(OutputOperator[FileOutputConfig]):
    """Write the rows to a file: csv, tsv, parquet, json, ndjson or arrow.

    The rows go to a temporary file, which then replaces the target in one step: readers see the former version or the
    new one, never a part of it. A record under `.flexiroaster/outputs` makes a repeated attempt change nothing. The
    former version is kept there too. The undo restores it, or removes the file if there was none; it is refused if the
    file has changed since. Remote stores have no rename, so there the upload is the step. Missing folders are created.
    """

    name = "file"
    config_model = FileOutputConfig
    example: ClassVar[Mapping[str, Any]] = {
        "id": "export",
        "type": "output",
        "config": {"destination": "file", "path": "exports/sales-{date}.parquet", "compression": "zstd"},
        "dependencies": ["sales"],
    }

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the contract
        """Report paths outside the roots, names without a known format, and options that do not go together."""
        try:
            _refuse_hidden(check_file_access(self.config.path, access), access)
        except StageError as error:
            yield Problem("path", error.message, "file")
        try:
            form, _ = self._format()
        except StageError as error:
            yield Problem(str(error.details["field"]), error.message, "format")
            return
        for option in _CSV_ONLY:
            given = option in self.config.model_fields_set
            if given and form != "csv" and not (form == "tsv" and option != "separator"):
                yield Problem(option, f"applies to csv, not to {form}", "unused")

    def run(self, context: StageContext) -> Result:
        """Write the file once. Raises StageError: data, configuration, transient."""
        form, compression = self._format()
        target = writable(fill_placeholders(self.config.path, self._placeholders(context)), context.access)
        _refuse_hidden(target, context.access)
        publication = self._publication(context)
        begun = publication.begin(target.uri, overwrite=self.config.overwrite)
        if begun.state == "done":
            return repeated_result(begun.effect, begun.at, context)
        try:
            write_table(context.table, publication.temporary(begun), form, compression, self.config)
            rows = count_rows(context.table)
            done = publication.finish(begun, form, rows, overwrite=self.config.overwrite)
        except BaseException:
            publication.abandon(begun)
            raise
        context.logger.info("wrote %s rows to %s", f"{rows:,}", done.target)
        return effect_result(done.effect, context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Restore the former version, or remove the file; a repeated undo changes nothing.

        Without a record nothing was written, and from then on no late attempt can write. Raises StageError
        (configuration) if the file has changed since.
        """
        return self._publication(context).undo(effect)

    def discard_undo_data(self, effect: Mapping[str, Any], context: StageContext) -> None:  # noqa: ARG002 - the contract
        """Remove the kept former version, and the record; afterwards no undo is possible."""
        self._publication(context).discard_undo_data()

    def _publication(self, context: StageContext) -> Publication:
        """The record is under the part of the path without placeholders, so that each attempt finds it."""
        base = check_file_access(_fixed_folder(self.config.path), context.access)
        if base.is_local:
            return Publication(LocalStorage(base.path / HIDDEN / "outputs"), context)
        folder = f"{base.uri.rstrip('/')}/{HIDDEN}/outputs"
        return Publication(RemoteStorage(folder, context.workdir / "output"), context)

    def _format(self) -> tuple[Format, str | None]:
        """Format and compression. Raises StageError (configuration) with the invalid `field` in its details."""
        path, given = self.config.path, self.config.compression
        try:
            form = detect_format(path, self.config.format)
        except StageError as error:
            raise configuration_error(error.message, field="format") from error
        named = detect_compression(path)
        if named is not None and (form in {"parquet", "arrow"} or named not in _TEXT_COMPRESSIONS):
            raise configuration_error(
                f"{form} files cannot be wrapped in {named}: choose another extension", field="path"
            )
        if named is not None and given is not None and given != named:
            raise configuration_error(f"is {given}, but the extension of {path!r} says {named}", field="compression")
        compression = given or (named.value if named else None)
        if compression is not None and compression not in _COMPRESSIONS[form]:
            known = ", ".join(sorted(_COMPRESSIONS[form]))
            raise configuration_error(
                f"{form} does not support {compression}; it supports {known}", field="compression"
            )
        return form, None if compression == "uncompressed" and form not in {"parquet", "arrow"} else compression

    def _placeholders(self, context: StageContext) -> dict[str, str]:
        today = datetime.now(UTC).date().isoformat()
        return {"execution_id": context.execution_id, "stage_id": context.stage_id, "date": today}


def _fixed_folder(path: str) -> str:
    """The folder of a path, or of its part before the first placeholder: `out/{date}/x.csv` gives `out`."""
    scheme, separator, rest = path.rpartition("://")
    folders = rest.split("/")[:-1]
    fixed = list(itertools.takewhile(lambda name: not any(mark in name for mark in _PLACEHOLDERS), folders))
    local = "/" if rest.startswith("/") else "."
    return f"{scheme}{separator}{'/'.join(fixed)}" if separator else "/".join(fixed) or local


def _refuse_hidden(location: Location, access: Access) -> None:
    """FlexiRoaster's own database and records can be under a root; outputs must not touch them."""
    roots = [Path(root).resolve() for root in access.file_roots if "://" not in root] if location.is_local else []
    below: list[PurePath] = [location.path.relative_to(root) for root in roots if location.path.is_relative_to(root)]
    candidates = below or [PurePosixPath(location.uri)]
    if all(HIDDEN in path.parts for path in candidates):
        raise configuration_error(
            f"{location.label!r} is in {HIDDEN}, which is reserved for FlexiRoaster; choose another folder",
            field="path",
        )


# --- writers ---


def write_table(
    table: pl.LazyFrame, target: Path, form: Format, compression: str | None, config: FileOutputConfig
) -> None:
    """Write all rows. Raises StageError (data) that names the columns that the format cannot hold.

    The files are opened here: a failed sink that opens a file by name can create it after it has raised the error.
    """
    if form in _TEXT_FORMATS:
        table = _to_text(table, form)
    if form is Format.JSON:
        _write_json(table, target, compression)
        return
    with target.open("wb") as file:
        _sink(table, file, form, {} if compression is None else {"compression": compression}, config)


def _sink(table: pl.LazyFrame, file: IO[bytes], form: Format, packed: dict[str, Any], config: FileOutputConfig) -> None:
    if form is Format.PARQUET:
        table.sink_parquet(file, **packed)
    elif form is Format.ARROW:
        table.sink_ipc(file, **packed)
    elif form is Format.NDJSON:
        table.sink_ndjson(file, check_extension=False, **packed)
    else:
        table.sink_csv(
            file,
            check_extension=False,
            separator="\t" if form is Format.TSV else config.separator,
            include_header=config.header,
            null_value=config.null_value,
            **packed,
        )


def _to_text(table: pl.LazyFrame, form: Format) -> pl.LazyFrame:
    """Convert times and durations to ISO 8601, and bytes to base64."""
    schema = table.collect_schema()
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    if form in {Format.CSV, Format.TSV}:
        _refuse_columns(nested, form, "lists or structs")
    _refuse_columns([name for name in nested if _holds_bytes(schema[name])], form, "bytes inside lists or structs")
    return table.with_columns(*_conversions(schema))


def _conversions(schema: pl.Schema) -> list[pl.Expr]:
    found = []
    for name, dtype in schema.items():
        column = pl.col(name)
        if isinstance(dtype, pl.Datetime):
            found.append(
                column.dt.to_string(_TIMESTAMP_FORMAT if dtype.time_zone is None else f"{_TIMESTAMP_FORMAT}%:z")
            )
        elif isinstance(dtype, pl.Time):
            found.append(column.dt.to_string("%H:%M:%S%.f"))
        elif isinstance(dtype, pl.Duration):
            found.append(column.dt.to_string("iso"))
        elif isinstance(dtype, pl.Binary):
            found.append(column.bin.encode("base64"))
    return found


def _holds_bytes(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List | pl.Array):
        return _holds_bytes(dtype.inner)  # type: ignore[arg-type]  # an instance, in the type of a column that exists
    if isinstance(dtype, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]  # as above
    return isinstance(dtype, pl.Binary)


def _refuse_columns(names: list[str], form: Format, what: str) -> None:
    if names:
        raise data_error(f"column {listed(names)}: {form} cannot hold {what}; write parquet, or convert the column")


def _write_json(table: pl.LazyFrame, target: Path, compression: str | None) -> None:
    """Write one array, one object per line: ndjson with commas between its lines, as JSON has no bare line breaks."""
    import pyarrow as pa

    lines = target.with_name(f"{target.name}.lines")
    try:
        with lines.open("wb") as file:
            table.sink_ndjson(file, check_extension=False)
        with lines.open("rb") as source, pa.output_stream(str(target), compression=compression) as sink:
            sink.write(b"[")
            left, separator = lines.stat().st_size, b"\n"
            while block := source.read(_BLOCK):
                left -= len(block)
                body = block if left else block.removesuffix(b"\n")
                sink.write(separator + body.replace(b"\n", b",\n"))
                separator = b""
            sink.write(b"\n]\n")
    finally:
        lines.unlink(missing_ok=True)
