"""Attempts of output stages for tests: in this process, and in one that dies at a chosen moment."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flexiroaster.errors import StageError
from flexiroaster.operators.access.databases import engine_for
from flexiroaster.operators.base import Access, Result, StageContext
from flexiroaster.operators.outputs.database.operator import DatabaseOutput, DatabaseOutputConfig
from tests import warm

CHILD = """
import os, signal, sys
from pathlib import Path
import polars as pl
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators import registry
from flexiroaster.operators.base import Access, StageContext

def die():
    os.kill(os.getpid(), signal.SIGKILL)

{sabotage}

config, access, data, execution, stage, action, workdir = {arguments!r}
operator = registry.build(StageType.OUTPUT, config, {{}})
inputs = {{"in": pl.scan_ipc(data)}}
context = StageContext(execution, "Daily Sales", stage, 1, inputs, Path(workdir), access=Access(**access))
if action == "undo":
    operator.undo({{"rows": 1}}, context)
else:
    operator.run(context)
"""


def context(
    data: pl.DataFrame | pl.LazyFrame,
    access: Access,
    execution: str = "e1",
    stage: str = "save",
    workdir: Path = Path("work"),
) -> StageContext:
    """What an attempt of the stage `save` of `Daily Sales` knows."""
    return StageContext(execution, "Daily Sales", stage, 1, {"in": data.lazy()}, workdir, access=access)


def error_of(call, *args, **kwargs) -> StageError:
    """Return the StageError that a call raises."""
    with pytest.raises(StageError) as caught:
        call(*args, **kwargs)
    return caught.value


def child_code(
    sabotage: str,
    config: Mapping[str, Any],
    access: Mapping[str, Any],
    data: pl.DataFrame,
    action: str = "run",
) -> str:
    """A program that makes one attempt, or undo, of `e1`/`save`, with `sabotage` (Python) in force."""
    path = Path("input.arrow").resolve()
    data.write_ipc(path)
    arguments = (dict(config), dict(access), str(path), "e1", "save", action, str(path.parent))
    return CHILD.format(sabotage=sabotage, arguments=arguments)


def run_and_die(
    sabotage: str,
    config: Mapping[str, Any],
    access: Mapping[str, Any],
    data: pl.DataFrame,
    action: str = "run",
) -> bool:
    """Run that program; whether it killed itself. Raises AssertionError when it failed otherwise."""
    code = child_code(sabotage, config, access, data, action)
    done = warm.run([sys.executable, "-c", code], timeout=300)
    if done.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(done.stderr)
    return done.returncode == -signal.SIGKILL


class Base:
    """One database under test: attempts on it, and a look into it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = engine_for(url)
        self.access = Access(output_url=url, connections={"other": url})

    @property
    def is_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def run(self, data: pl.DataFrame, execution: str = "e1", stage: str = "save", **config: Any) -> Result:
        return self.operator(**config).run(context(data, self.access, execution, stage))

    def undo(self, execution: str = "e1", stage: str = "save", effect: Mapping[str, Any] | None = None, **config: Any):
        empty = context(pl.DataFrame(), self.access, execution, stage)
        return self.operator(**config).undo(effect or {}, empty)

    def discard_undo_data(self, execution: str = "e1", stage: str = "save", **config: Any) -> None:
        self.operator(**config).discard_undo_data({}, context(pl.DataFrame(), self.access, execution, stage))

    def operator(self, **config: Any) -> DatabaseOutput:
        return DatabaseOutput(DatabaseOutputConfig.model_validate({"table": "t", **config}))

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, query: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def tables(self) -> set[str]:
        from sqlalchemy import inspect

        return set(inspect(self.engine).get_table_names())

    def effect(self, execution: str = "e1") -> dict[str, Any]:
        ((text,),) = self.rows(f"SELECT effect FROM flexiroaster_effects WHERE execution_id = '{execution}'")
        return json.loads(text)
