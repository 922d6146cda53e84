"""Errors that polars and the codecs raise while a source is read, as StageError that names the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexiroaster.errors import ErrorClass, StageError

__all__ = ["damaged", "first_line", "not_utf8", "reading"]


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn polars errors into StageError (data) `label: what is wrong`; a permission error becomes configuration."""
    import polars.exceptions as pe

    try:
        yield
    except pe.NoDataError as error:
        raise damaged(label, "file is empty") from error
    except (pe.PolarsError, pe.PanicException, UnicodeError) as error:  # damaged bytes can make polars panic
        raise damaged(label, first_line(error)) from error
    except PermissionError as error:
        raise StageError(f"{label}: {error.strerror}", ErrorClass.CONFIGURATION) from error


def damaged(label: str, what: str) -> StageError:
    """Build the error for data that does not match its format."""
    return StageError(f"{label}: {what}", ErrorClass.DATA)


def not_utf8(path: Path) -> str | None:
    """Describe the first line of a file that is not UTF-8; None if all lines are. Reads the file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: is not UTF-8 text (byte 0x{line[error.start]:02x})"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text. Polars adds advice about its own API below it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
