"""`destination: database`: rows written once to a PostgreSQL or SQLite table, in one transaction with their record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from flexiroaster.errors import Problem, configuration_error
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.operators.base import Access, OperatorConfig, OutputOperator, Result, StageContext
from flexiroaster.operators.outputs.database.destination import (
    Destination,
    UndoJob,
    WriteJob,
    qualified_name,
    reflect_table,
    undo_table,
)
from flexiroaster.operators.outputs.database.ledger import Entry, lock_name
from flexiroaster.operators.outputs.database.modes import (
    append_rows,
    have_common_rows,
    replace_table,
    undo_append,
    undo_replace,
    undo_upsert,
    upsert_rows,
)
from flexiroaster.operators.outputs.effects import (
    EFFECTS_TABLE,
    MAX_NAME_BYTES,
    already_undone_error,
    cannot_undo_error,
    default_table,
    effect_result,
    is_reserved,
    repeated_result,
)
from flexiroaster.operators.outputs.rows import count_rows

if TYPE_CHECKING:
    import polars as pl

__all__ = ["DatabaseOutput", "DatabaseOutputConfig", "Mode"]


class Mode(StrEnum):
    """What happens to the rows that are already in the table."""

    APPEND = "append"
    REPLACE = "replace"
    UPSERT = "upsert"


class DatabaseOutputConfig(OperatorConfig):
    """Where and how the rows are written."""

    model_config = ConfigDict(populate_by_name=True)

    connection: str | None = Field(default=None, description="A configured connection. Default: the output database.")
    table: str | None = Field(default=None, min_length=1, description="Default: a name made from pipeline and stage.")
    schema_name: str | None = Field(
        default=None,
        alias="schema",
        min_length=1,
        description="PostgreSQL only. Default: the connection's current schema.",
    )
    mode: Mode = Field(default=Mode.APPEND, description="What happens to the rows that are already there.")
    key: tuple[str, ...] = Field(
        default=(),
        description="The columns that identify a row. Required for upsert; the primary key of a table created here.",
    )
    track: bool = Field(
        default=True,
        description="Add the columns `_execution_id` and `_stage_id` to a table created for appending, "
        "so that an undo finds its rows.",
    )
    batch_size: int = Field(default=10_000, ge=1, le=1_000_000, description="Rows in memory at a time.")


class DatabaseOutput(OutputOperator[DatabaseOutputConfig]):
    """Write the rows to a table of a PostgreSQL or SQLite database.

    The table is created if it is absent. Columns are matched by name: columns that the data lacks become NULL or their
    default; columns that the table lacks are an error, and so are types that do not fit. FlexiRoaster's own tables
    cannot be written to, neither by name nor through a trigger or a partition. The rows and the record of the effect
    (in the table `flexiroaster_effects` of the same schema) are one transaction, so a repeated attempt changes nothing.

    `append` adds the rows. Its undo deletes them by the tracking columns, else by a copy of their primary keys; an
    append to a table with neither cannot be undone. `upsert` inserts or updates rows by `key`. Its undo restores the
    former values, even if others changed them since. `replace` swaps in a new table and keeps the former one for the
    undo. Indexes, constraints, grants and triggers stay with the former table, and the undo discards what others wrote
    to the new table. An undo that would lose later effects of other stages on the table is refused, and the error names
    the stage. An input without rows changes nothing, except that `replace` empties an existing table.
    """

    name = "database"
    config_model = DatabaseOutputConfig
    example: ClassVar[Mapping[str, Any]] = {
        "id": "save",
        "type": "output",
        "config": {"destination": "database", "table": "daily_sales", "mode": "upsert", "key": ["day", "shop"]},
        "dependencies": ["sales"],
    }

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the contract
        """Report unknown connections, tables that cannot be written to, and a missing or repeated key."""
        known, given = access.connections, self.config.connection
        if given is not None and given not in known:
            yield Problem(
                "connection", f"unknown connection {given!r}{suggestion_hint(given, known)}", "unknown_connection"
            )
        if self.config.table is not None:
            reserved = is_reserved(self.config.table, access.own_tables)
            message = _name_problem(self.config.table, reserved=reserved)
            if message:
                yield Problem("table", message, "reserved" if reserved else "invalid")
        if self.config.mode is Mode.UPSERT and not self.config.key:
            yield Problem("key", "is required for upsert: name the columns that identify a row", "missing")
        if len(set(self.config.key)) < len(self.config.key):
            yield Problem("key", "names a column twice", "duplicate")

    def run(self, context: StageContext) -> Result:
        """Write the rows once. Raises StageError (data, configuration), and SQLAlchemy's errors for the connection."""
        destination, table = self._destination(context), self._table(context)
        columns, rows = context.table.collect_schema(), count_rows(context.table)
        described = {
            "kind": "database",
            "mode": self.config.mode.value,
            "connection": self.config.connection,
            "schema": destination.schema,
            "table": table,
            "rows": rows,
            "undoable": True,
        }
        if rows == 0 and not self._empties_table(destination, table, columns):
            context.logger.warning("the input has no rows: nothing is written to table %r", table)
            return effect_result(described, context)
        with destination.transaction() as connection:
            found = destination.ledger.claim(connection, context)
            if found is not None:
                if found.undone_at is not None:
                    raise already_undone_error(found.undone_at)
                return repeated_result(found.effect, found.created_at, context)
            job = WriteJob(
                connection=connection,
                context=context,
                schema=destination.schema,
                table=table,
                columns=columns,
                rows=rows,
                key=self.config.key,
                track=self.config.track,
                batch_size=self.config.batch_size,
            )
            effect = {**described, **_WRITES[self.config.mode](job)}
            destination.ledger.record(connection, context, qualified_name(destination.schema, table), effect)
        context.logger.info("%s: wrote %s rows to table %r", self.config.mode, f"{rows:,}", table)
        return effect_result(effect, context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Revert the effect that the effects table records for this stage, if any; a repeated undo changes nothing.

        Without a record nothing was written, and from then on no late attempt can write. Raises StageError
        (configuration) if the effect cannot be reverted.
        """
        destination = self._destination(context)
        with destination.transaction() as connection:
            entry = destination.ledger.claim(connection, context)
            if entry is None:
                if effect.get("rows"):
                    raise cannot_undo_error(f"its record in {EFFECTS_TABLE!r} no longer exists")
                destination.ledger.mark_undone(connection, context)
                return f"nothing was written to table {self._table(context)!r}"
            if entry.undone_at is not None:
                return f"was already undone at {entry.undone_at}"
            job = UndoJob(connection, context, destination.schema, entry.effect["table"], entry.effect)
            name = qualified_name(job.schema, job.table)
            lock_name(connection, name)
            _refuse_if_superseded(job, destination.ledger.later(connection, entry, name))
            done = _UNDOS[entry.effect["mode"]](job)
            _drop_undo_table(connection, destination, context)
            destination.ledger.mark_undone(connection, context)
        return done

    def discard_undo_data(self, effect: Mapping[str, Any], context: StageContext) -> None:  # noqa: ARG002 - the contract
        """Drop the data kept for an undo, and the record; afterwards no undo is possible."""
        destination = self._destination(context)
        with destination.transaction() as connection:
            _drop_undo_table(connection, destination, context)
            destination.ledger.remove(connection, context)

    def _destination(self, context: StageContext) -> Destination:
        self.refuse_problems(context.access)
        return Destination(self._url(context.access), self.config.schema_name, context.access.own_tables)

    def _table(self, context: StageContext) -> str:
        own_tables = context.access.own_tables
        return self.config.table or default_table(context.pipeline_name, context.stage_id, own_tables)

    def _empties_table(self, destination: Destination, table: str, columns: pl.Schema) -> bool:
        """Whether a write without rows makes a difference: only if it replaces an existing table."""
        if not columns or self.config.mode is not Mode.REPLACE:
            return False
        with destination.transaction() as connection:
            return reflect_table(connection, table, destination.schema) is not None

    def _url(self, access: Access) -> str:
        if self.config.connection is not None:
            return access.connections[self.config.connection]
        if not access.output_url:
            raise configuration_error("there is no output database: name a `connection`, or set OUTPUT_DATABASE_URL")
        return access.output_url


def _name_problem(table: str, *, reserved: bool) -> str | None:
    """Why a table of that name cannot be written to, or None."""
    if reserved:
        return f"{table!r} is reserved for FlexiRoaster's own tables; choose another name"
    if table.casefold().startswith("sqlite_"):
        return f"{table!r} is reserved for SQLite; choose another name"
    if "." in table or not table.isprintable():
        return f"{table!r} is not a valid table name; the schema goes into `schema`"
    if len(table.encode()) > MAX_NAME_BYTES:
        return f"{table!r} is longer than {MAX_NAME_BYTES} bytes"
    return None


_WRITES: Mapping[str, Callable[[WriteJob], dict[str, Any]]] = {
    Mode.APPEND: append_rows,
    Mode.REPLACE: replace_table,
    Mode.UPSERT: upsert_rows,
}
_UNDOS: Mapping[str, Callable[[UndoJob], str]] = {
    Mode.APPEND: undo_append,
    Mode.REPLACE: undo_replace,
    Mode.UPSERT: undo_upsert,
}


def _refuse_if_superseded(job: UndoJob, later: list[Entry]) -> None:
    """Refuse an undo that would lose later effects, or that later effects build on: those must be undone first."""
    for other in later:
        ours, theirs = job.effect["mode"], other.effect["mode"]
        if "replace" in {ours, theirs} or (ours == theirs == "upsert" and have_common_rows(job, other)):
            raise cannot_undo_error(
                f"stage {other.stage_id!r} of execution {other.execution_id} has since written to table "
                f"{job.table!r} ({theirs}): undo that first"
            )


def _drop_undo_table(connection: Connection, destination: Destination, context: StageContext) -> None:
    table = reflect_table(connection, undo_table(context), destination.schema)
    if table is not None:
        table.drop(connection, checkfirst=False)
