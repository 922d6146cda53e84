"""`source: file`: csv, tsv, parquet, json, ndjson and arrow files, plain or compressed, local or remote."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Literal

import polars as pl
from polars.exceptions import PanicException, PolarsError
from pydantic import Field

from flexiroaster.errors import Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.access.file_access import check_file_access
from flexiroaster.operators.base import NONE, Access, Operator, Result, StageContext
from flexiroaster.operators.formats import Compression, Format, compression_of_file, detect_compression, detect_format
from flexiroaster.operators.inputs.scanning import scan
from flexiroaster.operators.inputs.sources import ReadOptions, Source, fetch_files, gather_sources

__all__ = ["FileInput"]

_READ_ERRORS = (StageError, OSError, EOFError, zlib.error, zipfile.BadZipFile, PolarsError, PanicException)
_SNIFFED_BYTES = 1 << 16
_BLOCK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

FormatName = Literal["auto", "csv", "tsv", "parquet", "json", "ndjson", "arrow"]
Paths = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class FileConfig(ReadOptions):
    """`path` is a path, a glob, a URL that fsspec understands, or a list of these; see `ReadOptions` for the rest."""

    path: Annotated[str, Field(min_length=1)] | Paths
    format: FormatName = "auto"

    @property
    def paths(self) -> list[str]:
        """The configured paths as a list, also for a single path."""
        return [self.path] if isinstance(self.path, str) else self.path


class FileInput(Operator[FileConfig]):
    """Read one or more files as one table, streaming.

    The format is inferred from the extension, also in names that end in `.gz`, `.zst`, `.bz2`, `.xz` or `.zip`. All
    files must have the same columns, except ndjson files, in which missing keys are null. Files must be under
    FILE_ROOTS.
    """

    stage_type = StageType.INPUT
    name = "file"
    config_model = FileConfig
    arity = NONE

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - not needed
        """Report paths outside the roots, and names whose format cannot be inferred."""
        for index, path in enumerate(self.config.paths):
            where = "path" if isinstance(self.config.path, str) else f"path[{index}]"
            try:
                check_file_access(path, access)
            except StageError as error:
                yield Problem(where, error.message, "file")
                continue
            try:
                if detect_compression(path) is None:
                    detect_format(path, self.config.format)
            except StageError as error:
                yield Problem("format", error.message, "format")

    def run(self, context: StageContext) -> pl.LazyFrame | Result:
        """Return the table: lazy, or written to a file for a compressed csv. Raises StageError (configuration, data,
        transient) that names the file.
        """
        folder = context.workdir / "input"
        files = fetch_files(self.config.paths, context.access, folder / "fetched")
        if (file := _read_compressed_csv(files, self.config, self.config.format, folder)) is not None:
            return Result(file=file)
        return scan(gather_sources(files, self.config.format, folder / "unpacked"), self.config, folder / "copies")


# --- compressed csv ---
# Polars decompresses while it reads, without an uncompressed copy of the text on disk.


def _read_compressed_csv(
    files: Sequence[tuple[Path, str]], options: ReadOptions, given: str, folder: Path
) -> Path | None:
    """Write the table to an uncompressed Arrow IPC file in `folder`; None if the slow path has to read the files.

    `files` are local files with their labels, `given` is the requested format.
    """
    if len(files) != 1 or options.rows is not None or options.file_column or options.encoding not in {"utf-8", "ascii"}:
        return None
    target = folder / "table.arrow"
    try:
        source = _as_packed_csv(*files[0], given, folder)
        if source is None:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:  # polars would sync a file that it opens by path to the disk
            scan([source], options, folder).sink_ipc(file, compression="uncompressed", engine="streaming")
    except _READ_ERRORS:
        target.unlink(missing_ok=True)
        return None
    return target


def _as_packed_csv(path: Path, label: str, given: str, folder: Path) -> Source | None:
    """The csv as gzip, if the file is gzip or can be repackaged as gzip."""
    compression = detect_compression(label) or compression_of_file(path)
    if compression not in {Compression.GZIP, Compression.ZIP}:
        return None
    member = _only_member(path) if compression is Compression.ZIP else None
    name = label if member is None else f"{label}/{member.filename}"
    form = detect_format(name, given, container=label)
    if form not in {Format.CSV, Format.TSV}:
        return None
    packed = path if member is None else _as_gzip(path, member, folder)
    return Source(packed, name, form, packed=True) if _is_text(packed) else None


def _only_member(path: Path) -> zipfile.ZipInfo:
    """Raises BadZipFile if the zip has another number of members, or a member that gzip cannot hold."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) != 1 or members[0].compress_type != zipfile.ZIP_DEFLATED or members[0].flag_bits & 0x1:
        raise zipfile.BadZipFile("not one deflated member")
    return members[0]


def _as_gzip(path: Path, member: zipfile.ZipInfo, folder: Path) -> Path:
    """Repackage a zip member as gzip: gzip has the same deflated bytes between its header and its trailer."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "packed.gz"
    with path.open("rb") as archive, target.open("wb") as file:
        archive.seek(member.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(archive.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member at the offset that the directory gives")
        archive.seek(name_length + extra_length, io.SEEK_CUR)
        file.write(_GZIP_HEADER)
        _copy(archive, file, member.compress_size)
        file.write(struct.pack("<II", member.CRC, member.file_size & 0xFFFFFFFF))
    return target


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (block := source.read(min(size, _BLOCK))):
        target.write(block)
        size -= len(block)


def _is_text(packed: Path) -> bool:
    """Whether the file can be UTF-8: other encodings, and binary formats, contain NUL bytes."""
    with gzip.open(packed) as file:
        start = file.read(_SNIFFED_BYTES)
    return bool(start) and b"\0" not in start
