"""`destination: database`: rows written once to a PostgreSQL or SQLite table, in one transaction with their record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType, suggestion_hint
from flexiroaster.operators.base import ONE, Access, OperatorConfig, OutputOperator, Result, StageContext
from flexiroaster.operators.outputs import effects
from flexiroaster.operators.outputs.database import modes
from flexiroaster.operators.outputs.database.destination import (
    Destination,
    UndoJob,
    WriteJob,
    reflect_table,
    target,
    undo_table,
)
from flexiroaster.operators.outputs.database.ledger import Entry, lock_name
from flexiroaster.operators.outputs.effects import (
    EFFECTS_TABLE,
    MAX_NAME,
    already_undone_error,
    default_table,
    gone,
    outcome,
    repeated_result,
)
from flexiroaster.operators.outputs.rows import count_rows

if TYPE_CHECKING:
    import polars as pl

__all__ = ["DatabaseOutput", "DatabaseOutputConfig", "Mode", "Request", "forget", "undo", "write"]


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

    stage_type = StageType.OUTPUT
    name = "database"
    config_model = DatabaseOutputConfig
    arity = ONE
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
            is_reserved = effects.is_reserved(self.config.table, access.own_tables)
            message = _objection(self.config.table, is_reserved=is_reserved)
            if message:
                yield Problem("table", message, "reserved" if is_reserved else "invalid")
        if self.config.mode is Mode.UPSERT and not self.config.key:
            yield Problem("key", "is required for upsert: name the columns that identify a row", "missing")
        if len(set(self.config.key)) < len(self.config.key):
            yield Problem("key", "names a column twice", "duplicate")

    def run(self, context: StageContext) -> Result:
        """Write the rows once. Raises StageError (data, configuration), and SQLAlchemy's errors for the connection."""
        from flexiroaster.operators.outputs.database.operator import write

        return write(self._request(context), context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Revert the effect that the effects table records for this stage, if any; a repeated undo changes nothing.

        Without a record nothing was written, and from then on no late attempt can write. Raises StageError
        (configuration) if the effect cannot be reverted.
        """
        from flexiroaster.operators.outputs.database.operator import undo

        return undo(self._request(context), effect, context)

    def forget(self, effect: Mapping[str, Any], context: StageContext) -> None:  # noqa: ARG002 - the contract
        """Drop the data kept for an undo, and the record; afterwards no undo is possible."""
        from flexiroaster.operators.outputs.database.operator import forget

        forget(self._request(context), context)

    def _request(self, context: StageContext) -> Request:
        from flexiroaster.operators.outputs.database.operator import Request

        for problem in self.check((), context.access):
            raise StageError(f"config.{problem}", ErrorClass.CONFIGURATION)
        own = context.access.own_tables
        table = self.config.table or default_table(context.pipeline_name, context.stage_id, own)
        return Request(self._url(context.access), table, self.config)

    def _url(self, access: Access) -> str:
        if self.config.connection is not None:
            return access.connections[self.config.connection]
        if not access.output_url:
            message = "there is no output database: name a `connection`, or set OUTPUT_DATABASE_URL"
            raise StageError(message, ErrorClass.CONFIGURATION)
        return access.output_url


def _objection(table: str, *, is_reserved: bool) -> str | None:
    """Why a table of that name cannot be written to, or None."""
    if is_reserved:
        return f"{table!r} is reserved for FlexiRoaster's own tables; choose another name"
    if table.casefold().startswith("sqlite_"):
        return f"{table!r} is reserved for SQLite; choose another name"
    if "." in table or not table.isprintable():
        return f"{table!r} is not a valid table name; the schema goes into `schema`"
    if len(table.encode()) > MAX_NAME:
        return f"{table!r} is longer than {MAX_NAME} bytes"
    return None


# One effect on a database: claim its key, write, record what was done, and undo it.
_MODES = {"append": modes, "replace": modes, "upsert": modes}


class Request(NamedTuple):
    """The request of a stage: the URL of the database, the name of the table, and the rest of the config."""

    url: str
    table: str
    config: DatabaseOutputConfig


def write(request: Request, context: StageContext) -> Result:
    """Take effect once; return the effect of an earlier attempt if there is one."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    columns = context.table.collect_schema()
    rows = count_rows(context.table)
    if rows == 0 and not _would_empty_table(request, destination, columns):
        context.logger.warning("the input has no rows: nothing is written to table %r", request.table)
        return outcome({**_described(request, destination), "rows": 0, "undoable": True}, context)
    with destination.transaction() as connection:
        found = destination.ledger.claim(connection, context)
        if found is not None:
            if found.undone_at is not None:
                raise already_undone_error(found.undone_at)
            return repeated_result(found.effect, found.created_at, context)
        job = _job(request, destination, connection, context, columns, rows)
        done = _MODES[request.config.mode].write(job)
        effect = {**_described(request, destination), "rows": rows, "undoable": True, **done}
        destination.ledger.record(connection, context, target(destination.schema, request.table), effect)
    context.logger.info("%s: wrote %s rows to table %r", request.config.mode, f"{rows:,}", request.table)
    return outcome(effect, context)


def _would_empty_table(request: Request, destination: Destination, columns: pl.Schema) -> bool:
    """Whether a write without rows makes a difference: only if it replaces an existing table."""
    if not columns or request.config.mode != "replace":
        return False
    with destination.transaction() as connection:
        return reflect_table(connection, request.table, destination.schema) is not None


def _described(request: Request, destination: Destination) -> dict[str, Any]:
    config = request.config
    place = {"connection": config.connection, "schema": destination.schema, "table": request.table}
    return {"kind": "database", "mode": config.mode.value, **place}


def _job(
    request: Request,
    destination: Destination,
    connection: Connection,
    context: StageContext,
    columns: pl.Schema,
    rows: int,
) -> WriteJob:
    config = request.config
    return WriteJob(
        connection=connection,
        context=context,
        schema=destination.schema,
        table=request.table,
        data=context.table,
        columns=columns,
        rows=rows,
        key=config.key,
        track=config.track,
        batch_size=config.batch_size,
    )


def undo(request: Request, effect: Mapping[str, Any], context: StageContext) -> str:
    """Revert the recorded effect once; return a sentence that says what was done."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    with destination.transaction() as connection:
        entry = destination.ledger.claim(connection, context)
        if entry is None:
            if effect.get("rows"):
                raise gone(f"its record in {EFFECTS_TABLE!r} no longer exists")
            destination.ledger.mark_undone(connection, context)
            return f"nothing was written to table {request.table!r}"
        if entry.undone_at is not None:
            return f"was already undone at {entry.undone_at}"
        task = UndoJob(connection, context, destination.schema, entry.effect["table"], entry.effect)
        place = target(task.schema, task.table)
        lock_name(connection, place)
        _refuse_if_overtaken(task, entry, destination.ledger.later(connection, entry, place))
        done: str = _MODES[entry.effect["mode"]].undo(task)
        _drop_undo_table(connection, destination, context)
        destination.ledger.mark_undone(connection, context)
    return done


def _refuse_if_overtaken(task: UndoJob, entry: Entry, later: list[Entry]) -> None:
    """Refuse an undo that would lose later effects, or that later effects build on: those must be undone first."""
    for other in later:
        ours, theirs = entry.effect["mode"], other.effect["mode"]
        if "replace" in {ours, theirs} or (ours == theirs == "upsert" and _overlap(task, other)):
            raise gone(
                f"stage {other.stage_id!r} of execution {other.execution_id} has since written to table "
                f"{task.table!r} ({theirs}): undo that first"
            )


def _overlap(task: UndoJob, other: Entry) -> bool:
    tables = undo_table(task.context), undo_table(other)
    return modes.shared_keys(task.connection, task.schema, *tables, list(task.effect["key"]))


def forget(request: Request, context: StageContext) -> None:
    """Drop the table kept for the undo, and the record."""
    destination = Destination(request.url, request.config.schema_name, context.access.own_tables)
    with destination.transaction() as connection:
        _drop_undo_table(connection, destination, context)
        destination.ledger.remove(connection, context)


def _drop_undo_table(connection: Connection, destination: Destination, context: StageContext) -> None:
    kept = reflect_table(connection, undo_table(context), destination.schema)
    if kept is not None:
        kept.drop(connection, checkfirst=False)
