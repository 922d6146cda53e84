"""Compressed csv: polars decompresses while it reads, without an uncompressed copy of the text on disk.

This is the fast path for the common case, one UTF-8 csv file in a gzip or zip file. After any failure the slow path
(`sources.gather`, `scanning.scan`) reads the file again and reports the error and its position.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import polars as pl
from polars.exceptions import PanicException, PolarsError

from flexiroaster.errors import StageError
from flexiroaster.operators.formats import (
    AUTO,
    Compression,
    Format,
    compression_of_file,
    detect_compression,
    detect_format,
    format_of_name,
)
from flexiroaster.operators.inputs.options import ReadOptions
from flexiroaster.operators.inputs.scanning import scan
from flexiroaster.operators.inputs.sources import Source

__all__ = ["read_packed"]

_FAILURES = (StageError, OSError, EOFError, zlib.error, zipfile.BadZipFile, PolarsError, PanicException)
_SNIFFED = 1 << 16
_BLOCK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def read_packed(files: Sequence[tuple[Path, str]], options: ReadOptions, given: str, folder: Path) -> Path | None:
    """Write the table to an uncompressed Arrow IPC file in `folder`; None if the slow path has to read the files.

    `files` are local files with their labels, `given` is the requested format.
    """
    if len(files) != 1 or options.rows is not None or options.file_column or options.encoding not in {"utf-8", "ascii"}:
        return None
    target = folder / "table.arrow"
    try:
        source = _packed(*files[0], given, folder)
        if source is None:
            return None
        _write(scan([source], options, folder), target)
    except _FAILURES:
        target.unlink(missing_ok=True)
        return None
    return target


def _write(table: pl.LazyFrame, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:  # polars would sync a file that it opens by path to the disk
        table.sink_ipc(file, compression="uncompressed", engine="streaming")


def _packed(path: Path, label: str, given: str, folder: Path) -> Source | None:
    """The csv as gzip, if the file is gzip or can be repackaged as gzip."""
    compression = detect_compression(label) or compression_of_file(path)
    if compression not in {Compression.GZIP, Compression.ZIP}:
        return None
    member = _only_member(path) if compression is Compression.ZIP else None
    name = label if member is None else f"{label}/{member.filename}"
    told = format_of_name(name) or format_of_name(label) if given == AUTO else None
    form = told or detect_format(name, given)
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
        start = file.read(_SNIFFED)
    return bool(start) and b"\0" not in start
