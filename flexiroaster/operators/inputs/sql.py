"""`source: sql`: the result of a query of any size, read in batches."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import polars as pl
import psycopg
from psycopg import Column, postgres
from pydantic import Field
from sqlalchemy import URL, Connection, CursorResult, TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flexiroaster.errors import ErrorClass, Problem, StageError, code_error, configuration_error, first_line
from flexiroaster.model.pipeline import StageType
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.operators.access.databases import READ_ONLY_OPTIONS, engine_for, guard_query, normalize_url
from flexiroaster.operators.base import NONE, Access, Operator, OperatorConfig, StageContext
from flexiroaster.operators.inputs.type_inference import Kind, Shape, Spool

__all__ = ["SqlInput"]

_SQLITE_STEPS = 10_000  # virtual machine instructions between two checks of the clock

_KINDS: Mapping[str, Kind] = {
    "bool": Kind.BOOLEAN,
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "numeric": Kind.DECIMAL,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "name": Kind.TEXT,
    "bytea": Kind.BINARY,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.INSTANT,
    "time": Kind.TIME,
    "interval": Kind.DURATION,
    "uuid": Kind.OTHER,
}
"""Types that PostgreSQL declares for columns of a result; they count for columns that hold no value at all."""

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


class SqlConfig(OperatorConfig):
    """`connection` names an entry of CONNECTIONS. `parameters` are bound to `:name` in the query; `IN :name` takes a
    list.

    `timeout` (s) limits the whole query; `batch_size` is the number of rows in memory at a time.
    """

    connection: str = Field(min_length=1)
    query: str = Field(min_length=1, json_schema_extra={"template": False})
    parameters: dict[str, Any] = Field(default_factory=dict)
    batch_size: int = Field(default=50_000, ge=1)
    timeout: float | None = Field(default=None, gt=0)


class SqlInput(Operator[SqlConfig]):
    """Run a read-only query and return its result as the table.

    The result streams through a file, so it can be larger than memory. Types are inferred from all values, not from the
    first ones. An SQLite file is opened read-only; on PostgreSQL the transaction is read-only.

    FlexiRoaster's own tables cannot be read, directly or through a view; other tables in the same database can. In that
    database, on PostgreSQL, a query can call only built-in functions, and of the volatile ones only `random`,
    `clock_timestamp` and the like.
    """

    stage_type = StageType.INPUT
    name = "sql"
    config_model = SqlConfig
    arity = NONE

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - not needed
        """Report an unknown connection, parameters without a value, and values without a parameter."""
        name = self.config.connection
        if name not in access.connections:
            yield Problem(
                "connection", f"unknown connection {name!r}{suggestion_hint(name, access.connections)}", "connection"
            )
        wanted, given = self._parameter_names(), self.config.parameters
        for missing in sorted(wanted - given.keys()):
            yield Problem("parameters", f"has no value for :{missing} in the query", "parameter")
        for extra in sorted(given.keys() - wanted):
            yield Problem(
                f"parameters.{extra}", f"the query has no :{extra}{suggestion_hint(extra, wanted)}", "parameter"
            )

    def _parameter_names(self) -> set[str]:
        return set(text(self.config.query).compile().params)

    def run(self, context: StageContext) -> pl.LazyFrame:
        """Return the result as a lazy frame over a file in `workdir`. No StageError shows the statement's values."""
        name = self.config.connection
        if name not in context.access.connections:
            raise configuration_error(f"unknown connection {name!r}{suggestion_hint(name, context.access.connections)}")
        url = _read_only(normalize_url(context.access.connections[name]), name)
        with _connected(url, name) as connection, _translate_errors(f"query on {name!r}", url, ErrorClass.CODE):
            deadline = _limit(connection, self.config.timeout)
            with guard_query(connection, self.config.query, context.access.own_tables):
                batches = connection.execute(self._statement(), self.config.parameters)
                spool = self._spool(batches, context.workdir / "query", deadline)
        return spool.finish()

    def _statement(self) -> TextClause:
        lists = [name for name, value in self.config.parameters.items() if isinstance(value, list | tuple)]
        statement = text(self.config.query)
        options = {"yield_per": self.config.batch_size}
        return statement.bindparams(*(bindparam(name, expanding=True) for name in lists)).execution_options(**options)

    def _spool(self, result: CursorResult[Any], folder: Path, deadline: float | None) -> Spool:
        names = _names(result)
        spool = Spool(folder, _declared(result))
        for rows in result.partitions(self.config.batch_size):
            if deadline is not None and time.monotonic() > deadline:
                raise StageError(f"the query took more than {self.config.timeout:g} s", ErrorClass.TIMEOUT)
            spool.append(dict(zip(names, zip(*rows, strict=True), strict=True)))
        return spool


def _read_only(url: URL, name: str) -> URL:
    """Open an SQLite file so that it is neither written nor created; other URLs stay as they are."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"} or "uri" in url.query:
        return url
    file = Path(url.database or "").absolute()
    if not file.is_file():
        raise configuration_error(f"connection {name!r}: the SQLite file does not exist")
    return url.set(database=f"file:{quote(str(file))}", query={**url.query, "mode": "ro", "uri": "true"})


@contextmanager
def _connected(url: URL, name: str) -> Iterator[Connection]:
    with _translate_errors(f"connection {name!r}", url, ErrorClass.TRANSIENT):
        engine = engine_for(url.render_as_string(hide_password=False))
        connection = engine.execution_options(**READ_ONLY_OPTIONS).connect()
    with connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(postgresql_readonly=True)
        elif connection.dialect.name == "sqlite":
            connection.detach()  # not pooled: the next attempt may find another file in its place
            _sqlite(connection).execute("PRAGMA query_only = ON")
        yield connection


def _sqlite(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def _limit(connection: Connection, timeout: float | None) -> float | None:
    """Limit the query in the database; return a deadline on our clock for time that the database does not count."""
    deadline = None if timeout is None else time.monotonic() + timeout
    if connection.dialect.name == "sqlite" and deadline is not None:
        _sqlite(connection).set_progress_handler(lambda: int(time.monotonic() > deadline), _SQLITE_STEPS)
    elif connection.dialect.name == "postgresql" and timeout is not None:
        limit = f"{max(1, round(timeout * 1000))}ms"
        connection.exec_driver_sql("SELECT set_config('statement_timeout', %s, true)", (limit,))
    return deadline


def _names(result: CursorResult[Any]) -> list[str]:
    if not result.returns_rows:
        raise code_error("the query returns no result set: an input reads, it does not write")
    names = list(result.keys())
    for index, name in enumerate(names):
        if name in names[:index]:
            raise code_error(f"the query returns two columns named {name!r}: rename one of them with AS")
    return names


def _declared(result: CursorResult[Any]) -> dict[str, Shape]:
    """The columns with the types that the database declares. SQLite declares none: it has types of values only."""
    names = list(result.keys())
    cursor = result.cursor
    if type(cursor).__module__.partition(".")[0] != "psycopg":
        return {name: Shape() for name in names}
    columns = cast("psycopg.Cursor[Any]", cursor).description or ()
    return {name: _shape_of(column) for name, column in zip(names, columns, strict=True)}


def _shape_of(column: Column) -> Shape:
    """The shape of a column without values; left open for types that cover many kinds (json, arrays)."""
    info = postgres.types.get(column.type_code)
    kind = _KINDS.get(info.name) if info is not None and info.oid == column.type_code else None
    return Shape() if kind is None else Shape({kind}, scale=max(column.scale or 0, 0))


# --- errors ---


@contextmanager
def _translate_errors(subject: str, url: URL, default: ErrorClass) -> Iterator[None]:
    """Raise database errors as StageError, of the default class unless the database says otherwise.

    The class says whether a retry can help. Messages contain neither the statement nor the password.
    """
    try:
        yield
    except SQLAlchemyError as error:
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        found = ErrorClass.TRANSIENT if is_lost else _class_of(error, default)
        raise StageError(f"{subject}: {_text(error, url)}", found) from error


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
