"""Error classes: classifies the exception of a stage attempt and describes it as JSON.

Exception types are matched by qualified name, so no library is imported for the check.
"""

from __future__ import annotations

import errno
import socket
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from flexiroaster.errors import ErrorClass, FlexiRoasterError, StageError

__all__ = ["StageCancelled", "classify", "clean", "describe"]

MESSAGE_BYTES = 4 * 1024
TRACEBACK_BYTES = 16 * 1024
DETAILS_BYTES = 64 * 1024

_OWN_CODE = str(Path(__file__).resolve().parents[1])

_BY_NAME = {
    "flexiroaster.workers.error_classes.StageCancelled": ErrorClass.CANCELLED,
    "builtins.MemoryError": ErrorClass.RESOURCE,
    "builtins.ConnectionError": ErrorClass.TRANSIENT,
    "builtins.TimeoutError": ErrorClass.TRANSIENT,
    "httpx.TransportError": ErrorClass.TRANSIENT,
    "httpx.UnsupportedProtocol": ErrorClass.CONFIGURATION,
    "httpx.InvalidURL": ErrorClass.CONFIGURATION,
    "sqlalchemy.exc.OperationalError": ErrorClass.TRANSIENT,
    "sqlalchemy.exc.InterfaceError": ErrorClass.TRANSIENT,
    "sqlalchemy.exc.TimeoutError": ErrorClass.TRANSIENT,
    "sqlalchemy.exc.IntegrityError": ErrorClass.DATA,
    "sqlalchemy.exc.DataError": ErrorClass.DATA,
    "sqlalchemy.exc.ProgrammingError": ErrorClass.CODE,
    "sqlalchemy.exc.NoSuchModuleError": ErrorClass.CONFIGURATION,
    "sqlite3.OperationalError": ErrorClass.TRANSIENT,
    "psycopg.OperationalError": ErrorClass.TRANSIENT,
    "psycopg.InterfaceError": ErrorClass.TRANSIENT,
    "psycopg.errors.DiskFull": ErrorClass.RESOURCE,
    "psycopg.errors.OutOfMemory": ErrorClass.RESOURCE,
    "psycopg.errors.InsufficientPrivilege": ErrorClass.CONFIGURATION,
    "polars.exceptions.SQLSyntaxError": ErrorClass.CODE,
    "polars.exceptions.SQLInterfaceError": ErrorClass.CODE,
    "polars.exceptions.PolarsError": ErrorClass.DATA,
    "pandas.errors.ParserError": ErrorClass.DATA,
    "pandas.errors.EmptyDataError": ErrorClass.DATA,
    "pyarrow.lib.ArrowException": ErrorClass.DATA,
    "builtins.UnicodeError": ErrorClass.DATA,
    "builtins.SyntaxError": ErrorClass.CODE,
    "builtins.ImportError": ErrorClass.CODE,
    "builtins.NameError": ErrorClass.CODE,
    "builtins.AttributeError": ErrorClass.CODE,
    "builtins.TypeError": ErrorClass.CODE,
    "builtins.NotImplementedError": ErrorClass.CODE,
    "builtins.RecursionError": ErrorClass.CODE,
    "builtins.SystemExit": ErrorClass.CODE,
    "builtins.FileNotFoundError": ErrorClass.CONFIGURATION,
    "builtins.PermissionError": ErrorClass.CONFIGURATION,
    "builtins.IsADirectoryError": ErrorClass.CONFIGURATION,
    "builtins.NotADirectoryError": ErrorClass.CONFIGURATION,
}
"""Qualified name of an exception type -> error class; the most derived type in the table decides."""

_BY_ERRNO = {
    errno.ENOSPC: ErrorClass.RESOURCE,
    errno.EDQUOT: ErrorClass.RESOURCE,
    errno.ENOMEM: ErrorClass.RESOURCE,
    errno.EMFILE: ErrorClass.RESOURCE,
    errno.ENFILE: ErrorClass.RESOURCE,
    errno.ENETUNREACH: ErrorClass.TRANSIENT,
    errno.ENETDOWN: ErrorClass.TRANSIENT,
    errno.EHOSTUNREACH: ErrorClass.TRANSIENT,
    errno.EHOSTDOWN: ErrorClass.TRANSIENT,
}


class StageCancelled(BaseException):
    """Raised inside a running stage to cancel it; `finally` blocks run.

    It is not an `Exception`, so a stage's `except Exception` does not catch it.
    """


def classify(error: BaseException) -> ErrorClass:
    """Classify an exception by its type, or by the exception it was raised `from` if its type is unknown."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (found := _own_class(cause)) is not ErrorClass.UNKNOWN:
            return found
        cause = cause.__cause__
    return ErrorClass.UNKNOWN


def describe(error: BaseException) -> dict[str, Any]:
    """Describe an exception as JSON: `type`, `message`, `class`, `traceback`, `retry_after` (s) and `details`.

    The message has at most 4 KiB, the traceback at most 16 KiB (its end). The traceback starts at the first frame
    outside of FlexiRoaster, if there is one, and is empty for an error that was never raised.
    """
    return {
        "type": _qualified(type(error)).removeprefix("builtins."),
        "message": clean(_message(error), MESSAGE_BYTES),
        "class": classify(error).value,
        "traceback": _traceback(error),
        "retry_after": getattr(error, "retry_after", None) if isinstance(error, StageError) else None,
        "details": _details(error.details) if isinstance(error, FlexiRoasterError) else {},
    }


def clean(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Clean text so that any database and JSON can store it: no NUL, no lone surrogates, at most `limit` bytes.

    Longer text is cut at the end, or at the beginning with `keep_end`, and a note has the number of bytes cut.
    """
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    cut = f"[{len(raw) - limit:,} bytes cut]"
    if keep_end:
        return f"{cut} … {raw[-limit:].decode(errors='ignore')}"
    return f"{raw[:limit].decode(errors='ignore')} … {cut}"


def _own_class(error: BaseException) -> ErrorClass:
    if isinstance(error, StageError):
        return error.error_class
    if isinstance(error, BaseExceptionGroup):
        classes = {classify(each) for each in error.exceptions}
        return classes.pop() if len(classes) == 1 else ErrorClass.UNKNOWN
    for kind in type(error).__mro__:
        name = _qualified(kind)
        if found := (_BY_VALUE[name](error) if name in _BY_VALUE else None) or _BY_NAME.get(name):
            return found
    return ErrorClass.UNKNOWN


def _of_os_error(error: Any) -> ErrorClass | None:  # noqa: ANN401 - an OSError; all rules have the same signature
    return _BY_ERRNO.get(error.errno)


def _of_address(error: Any) -> ErrorClass | None:  # noqa: ANN401 - a socket.gaierror
    return ErrorClass.TRANSIENT if error.errno == socket.EAI_AGAIN else ErrorClass.UNKNOWN


def _of_http_status(error: Any) -> ErrorClass | None:  # noqa: ANN401 - an httpx.HTTPStatusError
    status = error.response.status_code
    return ErrorClass.TRANSIENT if status >= 500 or status in {408, 425, 429} else ErrorClass.CONFIGURATION


def _of_wrapped(error: Any) -> ErrorClass | None:  # noqa: ANN401 - an sqlalchemy.exc.DBAPIError
    """Classify the database driver's own error, which is more specific than the wrapper, if it is known."""
    found = _own_class(error.orig) if isinstance(error.orig, BaseException) else ErrorClass.UNKNOWN
    return None if found is ErrorClass.UNKNOWN else found


def _of_sqlite(error: Any) -> ErrorClass | None:  # noqa: ANN401 - an sqlite3.OperationalError
    """Classify by message: SQLite has one type for a locked database, a full disk and an invalid statement."""
    text = str(error)
    if "disk is full" in text:
        return ErrorClass.RESOURCE
    if text.startswith(("no such ", "near ")) or "syntax error" in text or "incomplete input" in text:
        return ErrorClass.CODE
    return ErrorClass.CONFIGURATION if "unable to open" in text or "readonly" in text else None


def _of_panic(error: Any) -> ErrorClass | None:  # noqa: ANN401 - a panic of a Rust library
    texts = ("Resource temporarily unavailable", "memory allocation", "out of memory")
    return ErrorClass.RESOURCE if any(text in str(error) for text in texts) else ErrorClass.UNKNOWN


_BY_VALUE = {
    "builtins.OSError": _of_os_error,
    "socket.gaierror": _of_address,
    "httpx.HTTPStatusError": _of_http_status,
    "sqlalchemy.exc.DBAPIError": _of_wrapped,
    "sqlalchemy.exc.OperationalError": _of_wrapped,
    "sqlalchemy.exc.ProgrammingError": _of_wrapped,
    "sqlite3.OperationalError": _of_sqlite,
    "pyo3_runtime.PanicException": _of_panic,
}
"""Exception types that are classified by their values; a result of None falls back to the names."""


def _qualified(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    if isinstance(error, FlexiRoasterError):
        return error.message
    if isinstance(error, SystemExit):
        return f"the stage's code called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, StageCancelled):
        return str(error) or "the stage was cancelled"
    try:
        text = str(error).strip()
    except Exception as failed:  # noqa: BLE001 - a broken __str__ must not hide the error it belongs to
        text = f"(the message is not available: {failed!r})"
    name = type(error).__name__
    if type(error).__module__.startswith("polars."):
        return text.partition("\n\n")[0] or name  # the rest is advice about the polars API
    if isinstance(error, KeyError):
        return f"{name}: {text}"  # the text alone is only the key
    return text or ("out of memory" if isinstance(error, MemoryError) else name)


def _traceback(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""
    shown = _first_foreign(error.__traceback__) or error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, shown)
    except Exception as failed:  # noqa: BLE001 - objects with a broken repr must not hide the error
        lines = [*traceback.format_tb(shown), f"{_qualified(type(error))} (cannot be formatted: {failed!r})\n"]
    return clean("".join(lines), TRACEBACK_BYTES, keep_end=True)


def _first_foreign(frame: TracebackType | None) -> TracebackType | None:
    """The first frame outside of FlexiRoaster."""
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        frame = frame.tb_next
    return frame


def _details(details: dict[str, Any]) -> dict[str, Any]:
    """Convert details to plain JSON; other values become text, and details that are too large are omitted."""
    try:
        encoded = orjson.dumps(details, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        return {"omitted": f"the details are not JSON: {error}"}
    if len(encoded) > DETAILS_BYTES:
        return {"omitted": f"the details have {len(encoded):,} bytes, at most {DETAILS_BYTES:,} are kept"}
    plain: dict[str, Any] = orjson.loads(encoded)
    return plain
