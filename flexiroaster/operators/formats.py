"""File formats and compressions: detection by name or by content, and streaming decompression."""

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

from flexiroaster.errors import StageError, configuration_error, data_error, first_line

__all__ = [
    "AUTO",
    "Compression",
    "Format",
    "binary_format_of_file",
    "compression_of_file",
    "convert_read_errors",
    "detect_compression",
    "detect_format",
    "format_of_name",
    "not_utf8",
    "numbered_path",
    "unpack",
]


AUTO = "auto"
"""The config value that selects the format by the file name."""

_BLOCK = 1 << 20


class Format(StrEnum):
    """A file format of a table."""

    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    JSON = "json"
    NDJSON = "ndjson"
    ARROW = "arrow"


class Compression(StrEnum):
    """A compression of a file of any format."""

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
    b"PK\x05\x06": Compression.ZIP,  # an archive without members
}
_BINARY = {b"PAR1": Format.PARQUET, b"PARE": Format.PARQUET, b"ARROW1": Format.ARROW}
"""Magic bytes at both ends of a file -> its format; the Arrow streaming format has no magic bytes."""


def detect_compression(path: str) -> Compression | None:
    """Return the compression that the suffix of a path or URL names (`.gz`, `.zst`, `.bz2`, `.xz`, `.zip`), or None."""
    suffixes = _suffixes(path)
    return _COMPRESSIONS.get(suffixes[-1]) if suffixes else None


def format_of_name(path: str) -> Format | None:
    """Return the format that the suffix of a path or URL names, without a compression suffix, or None."""
    suffixes = _suffixes(path)
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def detect_format(path: str, given: str, *, container: str = "") -> Format:
    """Return the given format, or with `auto` the format that the suffix names, else the suffix of the container.

    Raises StageError (configuration) if no suffix is known.
    """
    if given != AUTO:
        return Format(given)
    found = format_of_name(path) or format_of_name(container)
    if found is None:
        known = ", ".join(_FORMATS)
        raise configuration_error(
            f"cannot tell the format of {path!r} from its name (known suffixes: {known}): set `format`"
        )
    return found


def _suffixes(path: str) -> list[str]:
    """Return the lowercase suffixes of the last segment of a path, or of a URL without its query."""
    name = urlsplit(path).path if "://" in path else path
    return [suffix.lower() for suffix in PurePosixPath(name).suffixes]


def compression_of_file(path: Path) -> Compression | None:
    """Return the compression that the first bytes of a file show, regardless of its name."""
    with path.open("rb") as file:
        start = file.read(10)
    if start[:3] == b"BZh" and start[4:] == b"1AY&SY":
        return Compression.BZ2
    return next((found for magic, found in _MAGIC.items() if start.startswith(magic)), None)


def binary_format_of_file(path: Path) -> tuple[Format | None, bool]:
    """Return the binary format that the first bytes of a file show, or None, and whether the last bytes agree."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0, io.SEEK_END)
        file.seek(max(0, file.tell() - 6))
        end = file.read()
    found = next((found for magic, found in _BINARY.items() if start.startswith(magic)), None)
    return found, found is None or any(end.endswith(magic) for magic, form in _BINARY.items() if form is found)


def numbered_path(folder: Path, prefix: str = "") -> Path:
    """Return the path of a new file in a folder; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{prefix}{sum(1 for _ in folder.iterdir()):05d}"


def unpack(path: Path, compression: Compression, folder: Path, label: str) -> list[tuple[Path, str]]:
    """Decompress a file into new files in `folder`, block by block, without holding a whole file in memory.

    Returns (new file, label) pairs. A compressed file gives one pair with the same label. A zip gives one pair for each
    member, labeled `label/member` and sorted, without folders and macOS metadata. The names of new files are generated;
    names inside a zip affect only labels and order. Raises StageError (data) if the file is damaged, or if a zip is
    empty or encrypted.
    """
    with _convert_decompression_errors(path, compression, label):
        if compression is Compression.ZIP:
            return list(_unpack_zip(path, folder, label))
        with _open_decompressed(path, compression) as source:
            return [(_copy_to(source, folder), label)]


def _unpack_zip(path: Path, folder: Path, label: str) -> Iterator[tuple[Path, str]]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(_members(archive), key=lambda member: member.filename)
        if not members:
            raise data_error(f"{label}: the zip contains no files")
        for member in members:
            if member.flag_bits & 0x1:
                raise data_error(f"{label}: member {member.filename!r} is encrypted")
            with archive.open(member) as source:
                yield _copy_to(source, folder), f"{label}/{member.filename}"


def _copy_to(source: IO[bytes], folder: Path) -> Path:
    target = numbered_path(folder)
    with target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _BLOCK)
    return target


def _members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if not member.is_dir() and "__MACOSX" not in parts and parts[-1] != ".DS_Store":
            yield member


@contextmanager
def _open_decompressed(path: Path, compression: Compression) -> Iterator[IO[bytes]]:
    """Open the decompressed bytes as a readable stream."""
    if compression is Compression.ZSTD:
        import pyarrow as pa  # the standard library has no zstd before Python 3.14

        with pa.input_stream(str(path), compression="zstd", buffer_size=_BLOCK) as stream:
            yield stream
        return
    openers = {Compression.GZIP: gzip.GzipFile, Compression.BZ2: bz2.BZ2File, Compression.XZ: lzma.LZMAFile}
    with openers[compression](path) as stream:
        yield stream


@contextmanager
def _convert_decompression_errors(path: Path, compression: Compression, label: str) -> Iterator[None]:
    """Convert decompressor errors for damaged bytes to a StageError that names the file."""
    damage = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, NotImplementedError)
    try:
        yield
    except damage as error:
        raise _damaged(path, compression, label, error) from error
    except OSError as error:
        if error.errno is not None and error.strerror:  # an error of the file system, not of the codec
            raise
        raise _damaged(path, compression, label, error) from error


def _damaged(path: Path, compression: Compression, label: str, error: Exception) -> StageError:
    if compression_of_file(path) is not compression:
        return data_error(f"{label}: is not {compression}, although its name says so")
    reason = "the file is truncated" if isinstance(error, EOFError) else error
    return data_error(f"{label}: cannot be decompressed: {reason}")


@contextmanager
def convert_read_errors(label: str) -> Iterator[None]:
    """Turn polars errors into StageError (data) `label: what is wrong`; a permission error becomes configuration."""
    from polars.exceptions import NoDataError, PanicException, PolarsError  # slow to import

    try:
        yield
    except NoDataError as error:
        raise data_error(f"{label}: file is empty") from error
    except (PolarsError, PanicException, UnicodeError) as error:  # damaged bytes can make polars panic
        raise data_error(f"{label}: {first_line(error)}") from error
    except PermissionError as error:
        raise configuration_error(f"{label}: {error.strerror}") from error


def not_utf8(path: Path) -> str | None:
    """Describe the first line of a file that is not UTF-8; None if all lines are. Reads the file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: is not UTF-8 text (byte 0x{line[error.start]:02x})"
    return None
