"""`source: api`: records passed with the call, in the config of the stage or in the variable `records`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import NONE, Operator, OperatorConfig, StageContext

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ApiConfig", "ApiInput"]


class ApiConfig(OperatorConfig):
    """`data` holds the records themselves. `endpoint` documents where they come from; nothing is fetched."""

    endpoint: str | None = None
    data: list[dict[str, Any]] | None = None


class ApiInput(Operator[ApiConfig]):
    """Read the records passed with the call.

    `config.data` takes precedence over the execution's variable `records`. Without either, the table is empty and a
    warning is logged. Types are inferred from all records: mixed values become text, nested values become structs,
    lists or JSON.
    """

    stage_type = StageType.INPUT
    name = "api"
    config_model = ApiConfig
    arity = NONE

    def run(self, context: StageContext) -> pl.DataFrame:
        """Return the records as a table. Raises StageError (data) that names the first record that is not an object."""
        from flexiroaster.operators.inputs.json import array_of_objects
        from flexiroaster.operators.inputs.type_inference import table_of

        if self.config.data is not None:
            return table_of(self.config.data)
        given = context.variables.get("records")
        if given is None:
            context.logger.warning(
                "no records were passed with the call (config.data or variable 'records'): the table is empty"
            )
            return table_of([])
        return table_of(array_of_objects(given, "variable 'records'"))
