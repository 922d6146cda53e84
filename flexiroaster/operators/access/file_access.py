"""File access: stages may use files under the allowed roots, except FlexiRoaster's own database.

A root is a folder, or the prefix of a URL that fsspec supports (`s3://bucket/data`). Symbolic links and `..` in local
paths are resolved before the check, and the resolved path is used. URLs are compared segment by segment.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from flexiroaster.errors import ErrorClass, StageError, configuration_error
from flexiroaster.operators.base import Access
from flexiroaster.operators.formats import numbered_path

__all__ = ["Location", "check_file_access", "fetch", "filesystem", "resolve", "writable"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")


@dataclass(frozen=True, slots=True)
class Location:
    """A permitted file: an absolute local path or a URL. `label` is its name in messages and columns."""

    uri: str
    label: str

    @property
    def is_local(self) -> bool:
        """Whether the file is in the local file system."""
        return _SCHEME.match(self.uri) is None

    @property
    def path(self) -> Path:
        """The local path. Raises ValueError for a URL."""
        if not self.is_local:
            raise ValueError(f"{self.label} is not a local file")
        return Path(self.uri)


def resolve(path: str, access: Access) -> list[Location]:
    """Return the files that match a path, glob or URL: at least one, sorted.

    Raises StageError (configuration) if no file matches or a file is outside `access.file_roots`.
    """
    place = check_file_access(path, access)
    return _resolve_local(path, place.path, access) if place.is_local else _resolve_url(place.uri, access)


def writable(path: str, access: Access) -> Location:
    """Return the location of an output file; its parents need not exist. Raises StageError (configuration)."""
    place = check_file_access(path, access, wildcards=False)
    if place.is_local and place.path.is_dir():
        raise configuration_error(f"{path!r} is a folder: name a file")
    return place


def check_file_access(path: str, access: Access, *, wildcards: bool = True) -> Location:
    """Return the resolved location of a path or URL, which need not exist.

    Only the part of a glob before its first wildcard is checked here; `resolve` checks each match. Without `wildcards`,
    wildcard characters are literal. Raises StageError (configuration) if the location is not permitted.
    """
    if "\0" in path or not path.strip():
        raise configuration_error(f"{path!r} is not a path")
    scheme = _scheme(path)
    if scheme is None or scheme == "file":
        local = _path_of_file_url(path) if scheme else path
        return _check_local(path, local, access, wildcards)
    return _check_url(path, scheme, access)


def fetch(location: Location, folder: Path) -> Path:
    """Return the path of the file if it is local, else copy it block by block to a new file in `folder`.

    Raises StageError: configuration if the file is missing or forbidden, transient if the transfer fails.
    """
    if location.is_local:
        return location.path
    target = numbered_path(folder)
    files, remote = filesystem(location.uri)
    with _convert_file_errors(location.label):
        files.get_file(remote, str(target))
    return target


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises StageError (configuration) if the scheme is unknown or its package is not installed.
    """
    import fsspec
    from fsspec.registry import known_implementations

    scheme = _scheme(url) or "file"
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err", str(error))
        raise configuration_error(f"{scheme}:// needs a package that is not installed: {hint}") from error
    except ValueError as error:
        raise configuration_error(f"{url!r}: {error}") from error
    return files, path


def _scheme(path: str) -> str | None:
    match = _SCHEME.match(path)
    return match[1].lower() if match else None


def _path_of_file_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise configuration_error(f"{url!r}: a file:// URL must name a local file, not a file on host {parts.netloc!r}")
    return unquote(parts.path)


def _check_local(given: str, path: str, access: Access, wildcards: bool) -> Location:
    absolute = Path.cwd() / path
    try:
        fixed, pattern = _split_at_wildcard(absolute) if wildcards else (absolute, None)
        place = fixed.resolve()
    except (OSError, RuntimeError) as error:  # a name that is too long, or a cycle of links
        raise configuration_error(f"{given!r} is not a valid path: {error}") from error
    if pattern is not None and ".." in pattern.parts:
        raise configuration_error(f"{given!r}: '..' may not follow a wildcard")
    if _label_under_roots(place, access) is None:
        raise _outside(given, access)
    _refuse_own(place, given, access)
    return Location(str(place / pattern) if pattern else str(place), given)


def _split_at_wildcard(path: Path) -> tuple[Path, Path | None]:
    """Split a path before the first component with a wildcard; an existing file with the literal name wins."""
    wild = next((i for i, part in enumerate(path.parts) if glob.has_magic(part)), None)
    if path.exists() or wild is None:
        return path, None
    return Path(*path.parts[:wild]), Path(*path.parts[wild:])


def _label_under_roots(place: Path, access: Access) -> str | None:
    """Return the path relative to the innermost root that contains it, or None if no root does."""
    holding = [root for root in _local_roots(access) if place.is_relative_to(root)]
    if not holding:
        return None
    return place.relative_to(max(holding, key=lambda root: len(root.parts))).as_posix()


def _local_roots(access: Access) -> Iterator[Path]:
    for root in access.file_roots:
        scheme = _scheme(root)
        if scheme in {None, "file"}:
            yield (Path.cwd() / (_path_of_file_url(root) if scheme else root)).resolve()


def _resolve_local(given: str, place: Path, access: Access) -> list[Location]:
    fixed, pattern = _split_at_wildcard(place)
    if pattern is None:
        if place.is_dir():
            raise configuration_error(
                f"{given!r} is a folder: name its files, such as {str(PurePosixPath(given) / '*.csv')!r}"
            )
        if not place.exists():
            raise configuration_error(f"file {given!r} does not exist")
        return [_check_match(place, given, access)]
    matches = sorted(glob.glob(str(pattern), root_dir=fixed, recursive=True))  # noqa: PTH207 - skips hidden files
    files = [fixed / match for match in matches if not (fixed / match).is_dir()]
    if not files:
        raise configuration_error(f"no file matches {given!r}")
    return [_check_match(file, file.relative_to(fixed).as_posix(), access) for file in files]


def _check_match(file: Path, shown: str, access: Access) -> Location:
    place = file.resolve()
    label = _label_under_roots(place, access)
    if label is None:
        raise _outside(shown, access)
    _refuse_own(place, shown, access)
    return Location(str(place), label)


def _refuse_own(place: Path, shown: str, access: Access) -> None:
    """Refuse the installation's SQLite file, also through a link, and its SQLite journals."""
    if not access.own_file:
        return
    own = Path(access.own_file)
    files = {own, *(own.with_name(own.name + suffix) for suffix in ("-wal", "-shm", "-journal"))}
    if place in files or (place.exists() and own.exists() and place.samefile(own)):
        raise configuration_error(f"file {shown!r} is FlexiRoaster's own database: stages have no access to it")


def _check_url(url: str, scheme: str, access: Access) -> Location:
    if "::" in url:
        raise configuration_error(f"{url!r}: chained URLs ('::') are not permitted")
    if scheme in {"http", "https"}:
        raise configuration_error(f"{url!r}: read web addresses with the http input")
    if not any(_is_below(url, root) for root in access.file_roots if _scheme(root) == scheme):
        raise _outside(url, access)
    return Location(url, url)


def _is_below(url: str, root: str) -> bool:
    """Return whether a URL is at or below a root, compared by whole segments; URLs with `.` or `..` never are."""
    rest = url.partition("://")[2].lstrip("/")
    top = root.partition("://")[2].strip("/")
    if {".", ".."} & set(unquote(rest).replace("\\", "/").split("/")):
        return False
    return not top or rest == top or rest.startswith(f"{top}/")


def _resolve_url(url: str, access: Access) -> list[Location]:
    files, path = filesystem(url)
    with _convert_file_errors(url):
        wild = glob.has_magic(path)
        found = sorted(files.glob(path)) if wild else [path] * files.isfile(path)
    if not found:
        raise configuration_error(f"no file matches {url!r}" if wild else f"file {url!r} does not exist")
    return [check_file_access(str(files.unstrip_protocol(name)), access) for name in found]


@contextmanager
def _convert_file_errors(label: str) -> Iterator[None]:
    """Convert file system errors to a StageError that names the file and tells whether a retry can help."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise configuration_error(f"{label}: {error.strerror or error}") from error
    except OSError as error:
        raise StageError(f"{label}: {error}", ErrorClass.TRANSIENT) from error


def _outside(shown: str, access: Access) -> StageError:
    roots = ", ".join(access.file_roots) or "none"
    return configuration_error(f"file {shown!r} is outside the allowed roots (FILE_ROOTS): {roots}")
