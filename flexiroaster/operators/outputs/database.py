"""`destination: database`: rows into a table of PostgreSQL or SQLite, once, in one transaction with their record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType, near
from flexiroaster.operators.base import ONE, Access, OperatorConfig, OutputOperator, Result, StageContext
from flexiroaster.operators.outputs import effects
from flexiroaster.operators.outputs.naming import MAX_NAME, default_table

if TYPE_CHECKING:
    from flexiroaster.operators.outputs.writing import Request

__all__ = ["DatabaseOutput", "DatabaseOutputConfig", "Mode"]


class Mode(StrEnum):
    """What happens to the rows that are in the table already."""

    APPEND = "append"
    REPLACE = "replace"
    UPSERT = "upsert"


class DatabaseOutputConfig(OperatorConfig):
    """Where the rows go, and how."""

    model_config = ConfigDict(populate_by_name=True)

    connection: str | None = Field(
        default=None, description="A connection of the installation; default: its output database."
    )
    table: str | None = Field(default=None, min_length=1, description="Default: named after pipeline and stage.")
    schema_name: str | None = Field(
        default=None, alias="schema", min_length=1, description="PostgreSQL: default the connection's current schema."
    )
    mode: Mode = Field(default=Mode.APPEND, description="What happens to the rows that are there.")
    key: tuple[str, ...] = Field(
        default=(),
        description="The columns that identify a row: required for upsert, the primary key of a table that is created.",
    )
    track: bool = Field(
        default=True,
        description="Give a table that is created for appending the columns `_execution_id` and `_stage_id`, "
        "by which an undo finds its rows.",
    )
    batch_size: int = Field(default=10_000, ge=1, le=1_000_000, description="Rows that are held in memory at a time.")


class DatabaseOutput(OutputOperator[DatabaseOutputConfig]):
    """Write the rows to a table of a PostgreSQL or SQLite database.

    The table is created where it is absent. Columns go by name: those that the data lacks become NULL or their
    default, those that the table lacks are an error, and so are types that do not fit. FlexiRoaster's own tables cannot
    be written to, neither by name nor through a trigger or a partition. Rows and the record of the
    effect (in the table `flexiroaster_effects` beside it) are one transaction, so a repeated attempt changes nothing.

    `append` adds the rows; its undo deletes them: by the tracking columns, else by a copy of their primary keys; a
    table with neither cannot be undone. `upsert` inserts or updates by `key`; its undo restores the values there
    were, also where others changed them since. `replace` swaps in a new table and keeps the former for the undo;
    indexes, constraints, grants and triggers stay with the former, and what others wrote to the new table goes with
    an undo. Where later effects of other stages on the table would be lost, an undo is refused and says which.
    An input without rows changes nothing, except that `replace` empties a table that is there.
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
        """Unknown connections, names that are not to be written to, a key that is missing or repeated."""
        known, given = access.connections, self.config.connection
        if given is not None and given not in known:
            yield Problem("connection", f"unknown connection {given!r}{near(given, known)}", "unknown_connection")
        if self.config.table is not None:
            is_reserved = effects.is_reserved(self.config.table, access.own_tables)
            message = _objection(self.config.table, is_reserved=is_reserved)
            if message:
                yield Problem("table", message, "reserved" if is_reserved else "invalid")
        if self.config.mode is Mode.UPSERT and not self.config.key:
            yield Problem("key", "is required for upsert: the columns that identify a row", "missing")
        if len(set(self.config.key)) < len(self.config.key):
            yield Problem("key", "names a column twice", "duplicate")

    def run(self, context: StageContext) -> Result:
        """Write the rows, once. Raises StageError: data, configuration; SQLAlchemy's errors for the connection."""
        from flexiroaster.operators.outputs.writing import write

        return write(self._request(context), context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Revert what the effects table says this stage did there, if anything; again: nothing more.

        Without a record nothing was written, and from then on no late attempt can write any more.
        Raises StageError (configuration) where the effect cannot be reverted.
        """
        from flexiroaster.operators.outputs.writing import undo

        return undo(self._request(context), effect, context)

    def forget(self, effect: Mapping[str, Any], context: StageContext) -> None:  # noqa: ARG002 - the contract
        """Drop what only an undo needs, and the record; afterwards there is no undo."""
        from flexiroaster.operators.outputs.writing import forget

        forget(self._request(context), context)

    def _request(self, context: StageContext) -> Request:
        from flexiroaster.operators.outputs.writing import Request

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
    """Why a table of that name is not written to, if it is not."""
    if is_reserved:
        return f"{table!r} is a name of FlexiRoaster's own tables; choose another"
    if table.casefold().startswith("sqlite_"):
        return f"{table!r} is a name that SQLite keeps for itself; choose another"
    if "." in table or not table.isprintable():
        return f"{table!r} is not a table's name; the schema goes into `schema`"
    if len(table.encode()) > MAX_NAME:
        return f"{table!r} is longer than {MAX_NAME} bytes"
    return None
