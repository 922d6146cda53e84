"""What polars and the codecs raise while a source is read, as a StageError that names the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexiroaster.errors import ErrorClass, StageError

__all__ = ["damaged", "first_line", "not_utf8", "reading"]


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Errors of polars inside become StageError (data) `label: what is wrong`; a file out of reach configuration."""
    import polars.exceptions as pe

    try:
        yield
    except pe.NoDataError as error:
        raise damaged(label, "file is empty") from error
    except (pe.PolarsError, pe.PanicException, UnicodeError) as error:  # a panic is what damaged bytes can end in
        raise damaged(label, first_line(error)) from error
    except PermissionError as error:
        raise StageError(f"{label}: {error.strerror}", ErrorClass.CONFIGURATION) from error


def damaged(label: str, what: str) -> StageError:
    """The error for data that is not what its format asks for."""
    return StageError(f"{label}: {what}", ErrorClass.DATA)


def not_utf8(path: Path) -> str | None:
    """The first line of a file that is not UTF-8, for a message; None where all are. Reads the file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: is not UTF-8 text (byte 0x{line[error.start]:02x})"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text: below it polars gives advice in terms of its own API."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
