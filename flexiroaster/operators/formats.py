"""File formats and compressions, told from a name, and unpacking that never holds a whole file in memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from flexiroaster.errors import ErrorClass, StageError

__all__ = [
    "AUTO",
    "Compression",
    "Format",
    "binary_format_of_file",
    "compression_of_file",
    "detect_compression",
    "detect_format",
    "format_of_name",
    "unpack",
]

AUTO = "auto"
"""What a config says where the name of the file is to decide."""

_BLOCK = 1 << 20


class Format(StrEnum):
    """How a table lies in a file."""

    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    JSON = "json"
    NDJSON = "ndjson"
    ARROW = "arrow"


class Compression(StrEnum):
    """What may be wrapped around a file of any format."""

    GZIP = "gzip"
    ZSTD = "zstd"
    BZ2 = "bz2"
    XZ = "xz"
    ZIP = "zip"


_FORMATS = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".json": Format.JSON,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".arrow": Format.ARROW,
    ".ipc": Format.ARROW,
    ".feather": Format.ARROW,
}
_COMPRESSIONS = {
    ".gz": Compression.GZIP,
    ".zst": Compression.ZSTD,
    ".bz2": Compression.BZ2,
    ".xz": Compression.XZ,
    ".zip": Compression.ZIP,
}
_MAGIC = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
    b"\xfd7zXZ\x00": Compression.XZ,
    b"PK\x03\x04": Compression.ZIP,
    b"PK\x05\x06": Compression.ZIP,  # one without members
}
_BINARY = {b"PAR1": Format.PARQUET, b"PARE": Format.PARQUET, b"ARROW1": Format.ARROW}
"""Magic bytes at both ends of a file -> its format; Arrow's streaming format has none."""


def detect_compression(path: str) -> Compression | None:
    """The compression that the end of a path or URL names (`.gz`, `.zst`, `.bz2`, `.xz`, `.zip`), if any."""
    suffixes = _suffixes(path)
    return _COMPRESSIONS.get(suffixes[-1]) if suffixes else None


def format_of_name(path: str) -> Format | None:
    """The format that the extension of a path or URL names, behind that of a compression too; None if none does."""
    suffixes = _suffixes(path)
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def detect_format(path: str, given: str = AUTO) -> Format:
    """The format asked for, or with `auto` the one that the extension names.

    Raises StageError (configuration) where neither says.
    """
    if given != AUTO:
        return Format(given)
    found = format_of_name(path)
    if found is None:
        known = ", ".join(_FORMATS)
        message = f"cannot tell the format of {path!r} from its name (known are {known}): set `format`"
        raise StageError(message, ErrorClass.CONFIGURATION)
    return found


def _suffixes(path: str) -> list[str]:
    """The lower-cased suffixes of the last segment of a path, or of a URL without its query."""
    name = urlsplit(path).path if "://" in path else path
    return [suffix.lower() for suffix in PurePosixPath(name).suffixes]


def compression_of_file(path: Path) -> Compression | None:
    """The compression that the first bytes of a file show, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(10)
    if start[:3] == b"BZh" and start[4:] == b"1AY&SY":
        return Compression.BZ2
    return next((found for magic, found in _MAGIC.items() if start.startswith(magic)), None)


def binary_format_of_file(path: Path) -> tuple[Format | None, bool]:
    """The format that the first bytes of a file show, if it is a binary one, and whether the last ones agree."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0, io.SEEK_END)
        file.seek(max(0, file.tell() - 6))
        end = file.read()
    found = next((found for magic, found in _BINARY.items() if start.startswith(magic)), None)
    return found, found is None or any(end.endswith(magic) for magic, form in _BINARY.items() if form is found)


def unpack(path: Path, compression: Compression, folder: Path, label: str) -> list[tuple[Path, str]]:
    """Decompress a file into new files of `folder`, block by block.

    Gives (new file, label) for each: one for a compressed file, under the same label, and one a member for a zip,
    under `label/member`, sorted, without folders and what macOS adds. The new names are ours; those inside a zip decide
    nothing but labels and order. Raises StageError (data) when the file is damaged, or a zip is empty or encrypted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _damage_named(path, compression, label):
        if compression is Compression.ZIP:
            return list(_unpack_zip(path, folder, label))
        with _opened(path, compression) as source:
            return [(_copied(source, folder), label)]


def _unpack_zip(path: Path, folder: Path, label: str) -> Iterator[tuple[Path, str]]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(_members(archive), key=lambda member: member.filename)
        if not members:
            raise StageError(f"{label}: the zip holds no file", ErrorClass.DATA)
        for member in members:
            if member.flag_bits & 0x1:
                raise StageError(f"{label}: member {member.filename!r} is encrypted", ErrorClass.DATA)
            with archive.open(member) as source:
                yield _copied(source, folder), f"{label}/{member.filename}"


def _copied(source: IO[bytes], folder: Path) -> Path:
    target = folder / f"{sum(1 for _ in folder.iterdir()):05d}"
    with target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _BLOCK)
    return target


def _members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if not member.is_dir() and "__MACOSX" not in parts and parts[-1] != ".DS_Store":
            yield member


@contextmanager
def _opened(path: Path, compression: Compression) -> Iterator[IO[bytes]]:
    """The decompressed bytes as a readable stream."""
    if compression is Compression.ZSTD:
        import pyarrow as pa  # the standard library has no zstd before Python 3.14

        with pa.input_stream(str(path), compression="zstd", buffer_size=_BLOCK) as stream:
            yield stream
        return
    openers = {Compression.GZIP: gzip.GzipFile, Compression.BZ2: bz2.BZ2File, Compression.XZ: lzma.LZMAFile}
    with openers[compression](path) as stream:
        yield stream


@contextmanager
def _damage_named(path: Path, compression: Compression, label: str) -> Iterator[None]:
    """What the decompressors raise for damaged bytes, as a StageError that names the file."""
    damage = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, NotImplementedError)
    try:
        yield
    except damage as error:
        raise _damaged(path, compression, label, error) from error
    except OSError as error:
        if error.errno is not None and error.strerror:  # the file system's own complaint, not the codec's
            raise
        raise _damaged(path, compression, label, error) from error


def _damaged(path: Path, compression: Compression, label: str, error: Exception) -> StageError:
    if compression_of_file(path) is not compression:
        return StageError(f"{label}: is not {compression}, although its name says so", ErrorClass.DATA)
    reason = "the file is truncated" if isinstance(error, EOFError) else error
    return StageError(f"{label}: cannot be decompressed: {reason}", ErrorClass.DATA)
