"""File writers: a table streamed to one local file, in each format."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.formats import Format

if TYPE_CHECKING:
    from flexiroaster.operators.outputs.file.operator import FileOutputConfig

__all__ = ["write_table"]

_BLOCK = 1 << 20
_MOMENT = "%Y-%m-%dT%H:%M:%S%.f"
_TEXT_FORMATS = {Format.CSV, Format.TSV, Format.JSON, Format.NDJSON}


def write_table(
    table: pl.LazyFrame, target: Path, form: Format, compression: str | None, config: FileOutputConfig
) -> None:
    """Write all rows. Raises StageError (data) that names the columns that the format cannot hold.

    The files are opened here: a failed sink that opens a file by name can create it after it has raised the error.
    """
    if form in _TEXT_FORMATS:
        table = _textual(table, form)
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


def _textual(table: pl.LazyFrame, form: Format) -> pl.LazyFrame:
    """Convert times and durations to ISO 8601, and bytes to base64."""
    schema = table.collect_schema()
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    if form in {Format.CSV, Format.TSV}:
        _refuse(nested, form, "lists or structs")
    _refuse([name for name in nested if _holds_bytes(schema[name])], form, "bytes inside lists or structs")
    return table.with_columns(*_conversions(schema))


def _conversions(schema: pl.Schema) -> list[pl.Expr]:
    found = []
    for name, dtype in schema.items():
        column = pl.col(name)
        if isinstance(dtype, pl.Datetime):
            found.append(column.dt.to_string(_MOMENT if dtype.time_zone is None else f"{_MOMENT}%:z"))
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


def _refuse(names: list[str], form: Format, what: str) -> None:
    if names:
        listed = ", ".join(map(repr, names))
        raise StageError(
            f"column {listed}: {form} cannot hold {what}; write parquet, or convert the column", ErrorClass.DATA
        )


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
