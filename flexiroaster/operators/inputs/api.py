"""Records that come with the call: in the config of the stage, or as the variable `records`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import NONE, Operator, OperatorConfig, StageContext

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ApiConfig", "ApiInput"]


class ApiConfig(OperatorConfig):
    """`data` are the records themselves. `endpoint` is a note on where they come from: nothing is fetched."""

    endpoint: str | None = None
    data: list[dict[str, Any]] | None = None


class ApiInput(Operator[ApiConfig]):
    """Take the records given with the call.

    `config.data` goes before the execution's variable `records`. Without either the table is empty, with a warning.
    Types are told from all records: what is mixed becomes text, nested values become structs, lists or JSON.
    """

    stage_type = StageType.INPUT
    name = "api"
    config_model = ApiConfig
    arity = NONE

    def run(self, context: StageContext) -> pl.DataFrame:
        """The records as a table. Raises StageError (data) naming the first that is not an object."""
        from flexiroaster.operators.inputs.inference import table_of
        from flexiroaster.operators.inputs.json_documents import array_of_objects

        if self.config.data is not None:
            return table_of(self.config.data)
        given = context.variables.get("records")
        if given is None:
            context.logger.warning("no records came with the call (config.data or variable 'records'): no rows")
            return table_of([])
        return table_of(array_of_objects(given, "variable 'records'"))
