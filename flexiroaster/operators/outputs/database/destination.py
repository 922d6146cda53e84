"""The database that an output writes to, and one transaction in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import Connection, MetaData, Table, exists, func, inspect, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from flexiroaster.errors import ErrorClass, StageError, configuration_error, data_error
from flexiroaster.operators.access.databases import engine_for, guard_writes
from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.database.ledger import Ledger, LockTable, lock_name
from flexiroaster.operators.outputs.effects import RESERVED_PREFIX, Key, cannot_undo_error, key_hash

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Destination", "UndoJob", "WriteJob", "qualified_name", "reflect_table", "undo_table"]

_LOCK_TIMEOUT = "60s"
_IDLE_TIMEOUT = "300s"


@dataclass(frozen=True, slots=True)
class WriteJob:
    """One attempt's write: where, what, and how. `table` is the name, `rows` the number of rows of the input."""

    connection: Connection
    context: StageContext
    schema: str | None
    table: str
    columns: pl.Schema
    rows: int
    key: Sequence[str]
    track: bool
    batch_size: int

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.connection.dialect.name

    def existing(self) -> Table | None:
        """The table as it is in the database, or None. Raises StageError (configuration) for a view."""
        return reflect_table(self.connection, self.table, self.schema)

    def lock(self, *, shared: bool = False) -> None:
        """Take the lock on the table's name: exclusive to create, replace or merge, shared to append."""
        lock_name(self.connection, qualified_name(self.schema, self.table), shared=shared)


@dataclass(frozen=True, slots=True)
class UndoJob:
    """One undo of an effect on a table."""

    connection: Connection
    context: StageContext
    schema: str | None
    table: str
    effect: Mapping[str, Any]

    def existing(self) -> Table | None:
        """The table as it is in the database, or None."""
        return reflect_table(self.connection, self.table, self.schema)

    def undo_data(self) -> Table:
        """The table with the data that the undo needs. Raises StageError (configuration) if it no longer exists."""
        found = reflect_table(self.connection, undo_table(self.context), self.schema)
        if found is None:
            raise cannot_undo_error(f"table {undo_table(self.context)!r}, which kept the former rows, no longer exists")
        return found

    def drop_if_created(self, table: Table) -> str:
        """Drop the table if the effect created it and it is empty now; return a phrase that says so."""
        if not self.effect.get("created"):
            return ""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(LockTable(table, "ACCESS EXCLUSIVE"))
        if self.connection.execute(select(exists(select(1).select_from(table)))).scalar_one():
            return ""
        table.drop(self.connection, checkfirst=False)
        return ", and dropped the table, which this stage had created"


class Destination:
    """A database by its URL, the schema to write to (PostgreSQL), and the tables that are never written."""

    def __init__(self, url: str, schema: str | None, own_tables: Collection[str]) -> None:
        engine = engine_for(url)
        self.dialect = engine.dialect.name
        if self.dialect not in {"postgresql", "sqlite"}:
            raise configuration_error(f"outputs write to PostgreSQL and SQLite, not to {self.dialect}")
        if self.dialect == "sqlite" and schema is not None:
            raise configuration_error("SQLite has no schemas: leave `schema` out")
        if self.dialect == "postgresql":  # after waiting for a lock, see what its holder committed
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._engine = engine
        self.schema = self._schema(schema)
        self.ledger = Ledger(self.schema)
        self._own_tables = own_tables

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, with the effects table in place; commit it at the end, roll it back on an error.

        Data that the database refuses raises StageError (data); a write that reaches one of FlexiRoaster's own tables
        raises StageError (configuration).
        """
        with _convert_errors():
            self.ledger.ensure(self._engine)
        with _convert_errors(), self._engine.begin() as connection:
            if self.dialect == "postgresql":
                _limit_waits(connection)
            with guard_writes(connection, self._own_tables):
                yield connection

    def _schema(self, given: str | None) -> str | None:
        """The name of the schema, so that a later change of the search path does not change the tables."""
        if self.dialect == "sqlite":
            return None
        with self._engine.connect() as connection:
            if given is None:
                current: str | None = connection.execute(select(func.current_schema())).scalar()
                if current is None:
                    raise configuration_error("the connection has no current schema: set `schema`")
                return current
            if not inspect(connection).has_schema(given):
                raise configuration_error(f"schema {given!r} does not exist")
            return given


def undo_table(key: Key) -> str:
    """The name of the table with the data kept for the undo of a stage."""
    return f"{RESERVED_PREFIX}undo_{key_hash(key)}"


def qualified_name(schema: str | None, table: str) -> str:
    """The name of a table in messages, the effects table and locks: `schema.table`, or `table` on SQLite."""
    return f"{schema}.{table}" if schema else table


def reflect_table(connection: Connection, table: str, schema: str | None) -> Table | None:
    """A table as it is in the database, or None. Raises StageError (configuration) for a view."""
    inspector = inspect(connection)
    if not inspector.has_table(table, schema=schema):
        return None
    views = inspector.get_view_names(schema)
    if connection.dialect.name == "postgresql":
        views += inspector.get_materialized_view_names(schema)
    if table in views:
        raise configuration_error(f"{table!r} is a view: outputs write to tables")
    return Table(table, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)


def _limit_waits(connection: Connection) -> None:
    """For this transaction only: no endless wait for a lock, and no lock held by a frozen process."""
    for name, value in (("lock_timeout", _LOCK_TIMEOUT), ("idle_in_transaction_session_timeout", _IDLE_TIMEOUT)):
        connection.execute(select(func.set_config(name, value, True)))


@contextmanager
def _convert_errors() -> Iterator[None]:
    """Raise database errors about data and locks as StageError; others, such as connection failures, pass through."""
    try:
        yield
    except (DataError, IntegrityError, psycopg.DataError, psycopg.IntegrityError) as error:  # psycopg's come from COPY
        raise data_error(_describe(error)) from error
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable) and "database is locked" not in str(error.orig):
            raise
        message = (
            "another transaction, perhaps an earlier attempt that still runs, has locked what this stage writes to"
        )
        raise StageError(message, ErrorClass.TRANSIENT) from error


def _describe(error: DBAPIError | psycopg.Error) -> str:
    """The database's message, with the row and column that it names."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return f"the database refused the data: {cause}"
    parts = [
        cause.diag.message_primary or str(cause),
        cause.diag.message_detail,
        *(cause.diag.context or "").split("\n")[:1],
    ]
    return f"the database refused the data: {'; '.join(part for part in parts if part)}"
