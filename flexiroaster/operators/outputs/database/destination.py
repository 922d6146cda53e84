"""The database that an output writes to, and one transaction in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import Connection, Engine, MetaData, Table, exists, func, inspect, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.databases import engine_for, writing
from flexiroaster.operators.base import StageContext
from flexiroaster.operators.outputs.database.ledger import Ledger, LockTable, lock_name
from flexiroaster.operators.outputs.effects import RESERVED_PREFIX, Key, gone, key_hash

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Destination", "UndoJob", "WriteJob", "reflect_table", "target", "undo_table"]

_LOCK_WAIT = "60s"
_IDLE_LIMIT = "300s"


@dataclass(frozen=True, slots=True)
class WriteJob:
    """One attempt's write: where, what, and how. `table` is the name, `rows` the number of rows of `data`."""

    connection: Connection
    context: StageContext
    schema: str | None
    table: str
    data: pl.LazyFrame
    columns: pl.Schema
    rows: int
    key: Sequence[str]
    track: bool
    batch_size: int

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.connection.dialect.name

    @property
    def undo_table(self) -> str:
        """The name of the table with the data kept for an undo."""
        return undo_table(self.context)

    @property
    def new_table(self) -> str:
        """The name under which a replacement table is built."""
        return f"{RESERVED_PREFIX}new_{key_hash(self.context)}"

    @property
    def staging_table(self) -> str:
        """The name of the temporary table for rows that cannot be inserted directly."""
        return f"{RESERVED_PREFIX}staging_{key_hash(self.context)}"

    def existing(self) -> Table | None:
        """The table as it is in the database, or None. Raises StageError (configuration) for a view."""
        return reflect_table(self.connection, self.table, self.schema)

    def lock(self, *, shared: bool = False) -> None:
        """Take the lock on the table's name: exclusive to create, replace or merge, shared to append."""
        lock_name(self.connection, target(self.schema, self.table), shared=shared)


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

    def kept(self) -> Table:
        """The table with the data kept for the undo. Raises StageError (configuration) if it no longer exists."""
        found = reflect_table(self.connection, undo_table(self.context), self.schema)
        if found is None:
            raise gone(f"table {undo_table(self.context)!r}, which kept the former rows, no longer exists")
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
            raise _refused(f"outputs write to PostgreSQL and SQLite, not to {self.dialect}")
        if self.dialect == "sqlite" and schema is not None:
            raise _refused("SQLite has no schemas: leave `schema` out")
        self._engine = _read_committed(engine) if self.dialect == "postgresql" else engine
        self.schema = self._schema(schema)
        self.ledger = Ledger(self.schema)
        self._own_tables = own_tables

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, with the effects table in place; commit it at the end, roll it back on an error.

        Data that the database refuses raises StageError (data); a write that reaches one of FlexiRoaster's own tables
        raises StageError (configuration).
        """
        with _refusals():
            self.ledger.ensure(self._engine)
        with _refusals(), self._engine.begin() as connection:
            if self.dialect == "postgresql":
                _limit_waits(connection)
            with writing(connection, self._own_tables):
                yield connection

    def _schema(self, given: str | None) -> str | None:
        """The name of the schema, so that a later change of the search path does not change the tables."""
        if self.dialect == "sqlite":
            return None
        with self._engine.connect() as connection:
            if given is None:
                current: str | None = connection.execute(select(func.current_schema())).scalar()
                if current is None:
                    raise _refused("the connection has no current schema: set `schema`")
                return current
            if not inspect(connection).has_schema(given):
                raise _refused(f"schema {given!r} does not exist")
            return given


def undo_table(key: Key) -> str:
    """The name of the table with the data kept for the undo of a stage."""
    return f"{RESERVED_PREFIX}undo_{key_hash(key)}"


def target(schema: str | None, table: str) -> str:
    """The name of a table in messages, the effects table and locks: `schema.table`, or `table` on SQLite."""
    return f"{schema}.{table}" if schema else table


def reflect_table(connection: Connection, table: str, schema: str | None) -> Table | None:
    """A table as it is in the database, or None. Raises StageError (configuration) for a view."""
    inspector = inspect(connection)
    if not inspector.has_table(table, schema=schema):
        return None
    if table in {*inspector.get_view_names(schema), *_materialized_views(inspector, schema)}:
        raise _refused(f"{table!r} is a view: outputs write to tables")
    return Table(table, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)


def _materialized_views(inspector: Any, schema: str | None) -> list[str]:  # noqa: ANN401 - an Inspector or a dialect's
    return inspector.get_materialized_view_names(schema) if inspector.dialect.name == "postgresql" else []


def _read_committed(engine: Engine) -> Engine:
    """A transaction that waited for a lock then sees what the holder of the lock committed."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def _limit_waits(connection: Connection) -> None:
    """For this transaction only: no endless wait for a lock, and no lock held by a frozen process."""
    for name, value in (("lock_timeout", _LOCK_WAIT), ("idle_in_transaction_session_timeout", _IDLE_LIMIT)):
        connection.execute(select(func.set_config(name, value, True)))


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise database errors about data and locks as StageError; others, such as connection failures, pass through."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise StageError(_words(error), ErrorClass.DATA) from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:  # from COPY, which belongs to the driver
        raise StageError(_words(error), ErrorClass.DATA) from error
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable) and "database is locked" not in str(error.orig):
            raise
        message = (
            "another transaction, perhaps an earlier attempt that still runs, has locked what this stage writes to"
        )
        raise StageError(message, ErrorClass.TRANSIENT) from error


def _words(error: DBAPIError | psycopg.Error) -> str:
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


def _refused(message: str) -> StageError:
    return StageError(message, ErrorClass.CONFIGURATION)
