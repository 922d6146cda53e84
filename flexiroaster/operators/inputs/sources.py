"""Sources: plain local files of a known format, found, fetched and decompressed from the paths of a config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.file_access import fetch, resolve
from flexiroaster.operators.base import Access
from flexiroaster.operators.formats import (
    AUTO,
    Format,
    compression_of_file,
    detect_compression,
    detect_format,
    format_of_name,
    unpack,
)

__all__ = ["Source", "fetched", "gather", "plain_sources"]


@dataclass(frozen=True, slots=True)
class Source:
    """A local file and its label in messages and the file column. `packed`: a gzip csv; other files are plain."""

    path: Path
    label: str
    format: Format
    packed: bool = False


def fetched(paths: Iterable[str], access: Access, folder: Path) -> list[tuple[Path, str]]:
    """Find all files that the paths, globs and URLs name, in that order, each once, with their labels.

    Remote files are fetched into `folder`. Raises StageError.
    """
    found = dict.fromkeys(place for path in paths for place in resolve(path, access))
    return [(fetch(place, folder), place.label) for place in found]


def gather(files: Iterable[tuple[Path, str]], given: str, folder: Path) -> list[Source]:
    """Find plain files of one format; compressed files are decompressed into `folder`. Raises StageError."""
    sources = [source for path, label in files for source in plain_sources(path, label, given, folder)]
    _refuse_mixture(sources)
    return sources


def plain_sources(path: Path, label: str, given: str, folder: Path) -> Iterator[Source]:
    """Yield the file itself, or its contents if its name or its first bytes say that it is compressed."""
    compression = detect_compression(label) or compression_of_file(path)
    inside = unpack(path, compression, folder, label) if compression else [(path, label)]
    for file, name in inside:
        told = format_of_name(name) or format_of_name(label) if given == AUTO else None
        yield Source(file, name, told or detect_format(name, given))


def _refuse_mixture(sources: list[Source]) -> None:
    first = sources[0]
    for source in sources:
        if source.format is not first.format:
            message = f"{source.label} is {source.format}, but {first.label} is {first.format}: read them separately"
            raise StageError(message, ErrorClass.CONFIGURATION)
