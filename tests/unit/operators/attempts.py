"""One attempt of a stage without an engine: a config and tables in, what the operator gives out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from flexiroaster.errors import Problem
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators.base import Access, Result, StageContext
from flexiroaster.operators.registry import build, check_stage

NO_ACCESS = Access()


def context(inputs=None, access=NO_ACCESS) -> StageContext:
    """A context of stage `here` over tables given as frames or as dicts of columns."""
    frames = {name: _lazy(table) for name, table in (inputs or {}).items()}
    return StageContext("execution", "pipeline", "here", 1, frames, Path("unused"), access=access)


def attempt(config, inputs=None, *, access=NO_ACCESS, stage_type=StageType.TRANSFORM, variables=None):
    """What the operator gives, unchanged."""
    return build(stage_type, config, variables or {}).run(context(inputs, access))


def transform(config, *tables, access=NO_ACCESS, **inputs) -> pl.DataFrame:
    """The table that a transform gives; a single table is that of stage `load-data`."""
    given = {"load-data": tables[0]} if tables else inputs
    result = attempt(config, given, access=access)
    table = result.table if isinstance(result, Result) else result
    return table.collect() if isinstance(table, pl.LazyFrame) else table


def validate(config, table) -> Result:
    """The result of a validation of the table of stage `load-data`."""
    return attempt(config, {"load-data": table}, stage_type=StageType.VALIDATION)


def problems(config, dependencies=("load-data",), *, access=NO_ACCESS, stage_type=StageType.TRANSFORM) -> list[str]:
    """What checking a definition says of the stage."""
    stage = Stage(id="here", type=stage_type, config=config, dependencies=dependencies)
    found: list[Problem] = list(check_stage(0, stage, {}, access))
    return [str(problem) for problem in found]


def _lazy(table) -> pl.LazyFrame:
    if isinstance(table, pl.LazyFrame):
        return table
    return table.lazy() if isinstance(table, pl.DataFrame) else pl.LazyFrame(table)
