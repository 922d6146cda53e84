"""Database errors, classified by whether a retry can help. Messages contain neither the statement nor the password."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.inputs.failures import first_line

__all__ = ["connecting", "querying"]

_SQLSTATES: Mapping[str, ErrorClass] = {
    "08": ErrorClass.TRANSIENT,  # connection exception
    "40": ErrorClass.TRANSIENT,  # rolled back: serialization failure, deadlock
    "53": ErrorClass.TRANSIENT,  # insufficient resources of the server
    "55P03": ErrorClass.TRANSIENT,  # lock not available
    "57": ErrorClass.TRANSIENT,  # operator intervention: shutdown, crash, starting up
    "57014": ErrorClass.TIMEOUT,  # query canceled, as by statement_timeout
    "22": ErrorClass.DATA,  # data exception: division by zero, text that is not a number
    "28": ErrorClass.CONFIGURATION,  # not authorized to connect
    "3D": ErrorClass.CONFIGURATION,  # no such database
    "42501": ErrorClass.CONFIGURATION,  # insufficient privilege
}
"""SQLSTATE prefix -> class; the longest matching prefix decides."""

_SQLITE_CODES: Mapping[int, ErrorClass] = {
    5: ErrorClass.TRANSIENT,  # busy
    6: ErrorClass.TRANSIENT,  # locked
    9: ErrorClass.TIMEOUT,  # interrupted
    10: ErrorClass.TRANSIENT,  # input/output error
    11: ErrorClass.DATA,  # the file is corrupt
    14: ErrorClass.CONFIGURATION,  # the file cannot be opened
    23: ErrorClass.CONFIGURATION,  # not authorized
    26: ErrorClass.DATA,  # the file is not a database
}


@contextmanager
def connecting(name: str, url: URL) -> Iterator[None]:
    """Raise connection failures as StageError: transient unless the database says otherwise."""
    try:
        yield
    except SQLAlchemyError as error:
        found = _class_of(error, ErrorClass.TRANSIENT)
        raise StageError(f"connection {name!r}: {_text(error, url)}", found) from error


@contextmanager
def querying(name: str, url: URL) -> Iterator[None]:
    """Raise statement failures as StageError: code unless the database says otherwise."""
    try:
        yield
    except SQLAlchemyError as error:
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        found = ErrorClass.TRANSIENT if lost else _class_of(error, ErrorClass.CODE)
        raise StageError(f"query on {name!r}: {_text(error, url)}", found) from error


def _class_of(error: SQLAlchemyError, otherwise: ErrorClass) -> ErrorClass:
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None)
    if state:
        prefixes = (state[:length] for length in (5, 2))
        return next((_SQLSTATES[prefix] for prefix in prefixes if prefix in _SQLSTATES), ErrorClass.CODE)
    code = getattr(cause, "sqlite_errorcode", None)
    return otherwise if code is None else _SQLITE_CODES.get(code & 0xFF, otherwise)


def _text(error: SQLAlchemyError, url: URL) -> str:
    """The database's own message, without the statement that SQLAlchemy adds."""
    text = first_line(getattr(error, "orig", None) or error)
    password = url.password
    return text.replace(password, "***") if password else text
