"""Stage attempts inside a worker: from the task to the stage's output."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from flexiroaster.artifacts.composite import total_bytes
from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model import failpoints
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators import registry
from flexiroaster.operators.base import Access, Operator, OutputOperator, Result, StageContext

__all__ = ["IN_MEMORY_BYTES", "AttemptRunner", "memory_limited"]

IN_MEMORY_BYTES = 256 * 1024 * 1024
"""Total size of input tables that may be read into memory; larger inputs stream. A memory limit lowers it."""


@dataclass(frozen=True, slots=True)
class AttemptRunner:
    """Runs attempts, with the artifact store, the access of stages, and the scratch folder of this worker.

    Inside `shield` no cancellation is raised.
    """

    artifacts: Artifacts
    access: Access
    workdir: Path
    shield: AbstractContextManager[None]

    def run(self, task: Mapping[str, Any], report_progress: Callable[[float, str], None]) -> dict[str, Any]:
        """Run a task (with the fields of `Task`) and return the output. Exceptions of the stage are passed on."""
        with memory_limited(task["memory_limit"]), self._scratch():
            with self.shield:  # an interrupted import causes misleading errors later
                operator = registry.build(StageType(task["stage_type"]), task["config"], task["variables"])
            context = self._context(task, operator, report_progress)
            failpoints.point("attempt.before_run")
            if task["undo"] is not None:
                undone = _undo(operator, task["undo"], context)
                failpoints.point("attempt.after_undo")
                return {"undone": undone}
            given = operator.run(context)
            output = self._output(task, given if isinstance(given, Result) else Result(given))
            failpoints.point("attempt.after_run")
            return output

    def _context(
        self, task: Mapping[str, Any], operator: Operator[Any], report_progress: Callable[[float, str], None]
    ) -> StageContext:
        tables = {stage: output for stage, output in task["inputs"].items() if "url" in output}
        if task["undo"] is not None:
            tables = {}  # the effect has all data for its undo; the tables may be deleted by then
        elif len(tables) < operator.arity.minimum:
            without = ", ".join(repr(stage) for stage in task["inputs"] if stage not in tables) or "none"
            message = f"too few input tables: {len(tables)}, at least {operator.arity.minimum} needed"
            raise StageError(f"{message}; stages without a table: {without}", ErrorClass.CONFIGURATION)
        return StageContext(
            execution_id=task["execution_id"],
            pipeline_name=task["pipeline_name"],
            stage_id=task["stage_id"],
            attempt=task["attempt"],
            inputs={stage: self.artifacts.scan(stage, output) for stage, output in tables.items()},
            workdir=self.workdir,
            variables=task["variables"],
            access=self.access,
            report_progress=report_progress,
            in_memory=_fits_memory(task),
        )

    def prepare(self) -> None:
        """Create the scratch folder. It is reused by the next attempt as long as it is empty."""
        self.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def _scratch(self) -> Iterator[None]:
        self.prepare()  # `Artifacts.sweep` may have deleted the folder of an idle worker
        try:
            yield
        finally:
            if _is_used(self.workdir):
                shutil.rmtree(self.workdir, ignore_errors=True)
                self.prepare()

    def _output(self, task: Mapping[str, Any], result: Result) -> dict[str, Any]:
        """Write the tables and return the summary of the main table, plus the other parts of the output."""
        output = self._table(task, result)
        if result.report:
            output["report"] = dict(result.report)
        if result.side_tables:
            output["side_tables"] = {name: self._write(task, t, name) for name, t in result.side_tables.items()}
        if result.effect is not None:
            output["effect"] = dict(result.effect)
        return output

    def _table(self, task: Mapping[str, Any], result: Result) -> dict[str, Any]:
        if result.passthrough_stage is not None:
            if result.passthrough_stage not in task["inputs"]:
                raise StageError(
                    f"passed on the table of {result.passthrough_stage!r}, which is not an input", ErrorClass.CODE
                )
            return summary_of(task["inputs"][result.passthrough_stage])
        if result.row_aligned_with is not None:
            return self._write_changes(task, result, result.row_aligned_with)
        if result.file is not None:
            return self.artifacts.store_file(result.file, *_names(task))
        return {} if result.table is None else self._write(task, result.table)

    def _write_changes(self, task: Mapping[str, Any], result: Result, stage_id: str) -> dict[str, Any]:
        if stage_id not in task["inputs"]:
            raise StageError(
                f"returned columns or rows of the table of {stage_id!r}, which is not an input", ErrorClass.CODE
            )
        base = summary_of(task["inputs"][stage_id])
        if result.row_mask is not None:
            return self.artifacts.write_selection(_checked_table(result.table), result.row_mask, base, *_names(task))
        table, in_memory = _checked_table(result.table), _fits_memory(task)
        return self.artifacts.write_columns(table, result.changed_columns, base, *_names(task), in_memory=in_memory)

    def _write(self, task: Mapping[str, Any], table: object, name: str | None = None) -> dict[str, Any]:
        return self.artifacts.write(_checked_table(table), *_names(task), name)


def _names(task: Mapping[str, Any]) -> tuple[str, str, str]:
    """Execution, stage and attempt. The token is needed because a replaced driver may still run the same attempt."""
    return task["execution_id"], task["stage_id"], f"{task['token']}.{task['attempt']}"


def _checked_table(table: object) -> pl.LazyFrame | pl.DataFrame:
    if isinstance(table, pl.LazyFrame | pl.DataFrame):
        return table
    message = f"returned {type(table).__module__}.{type(table).__qualname__} instead of a polars table"
    raise StageError(message, ErrorClass.CODE)


def _fits_memory(task: Mapping[str, Any]) -> bool:
    """Whether the input tables are small enough to fit into memory several times."""
    limit = task["memory_limit"]
    room = IN_MEMORY_BYTES if limit is None else min(IN_MEMORY_BYTES, limit * 1024 * 1024 // 8)
    return sum(total_bytes(output) for output in task["inputs"].values() if "url" in output) <= room


def _undo(operator: Operator[Any], effect: Mapping[str, Any], context: StageContext) -> str:
    if not isinstance(operator, OutputOperator):
        raise StageError(f"operator {operator.name!r} does not support undo", ErrorClass.CONFIGURATION)
    return operator.undo(effect, context)


def _is_used(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return True


@contextmanager
def memory_limited(mebibytes: int | None) -> Iterator[None]:
    """Limit the growth of the process's memory, in MiB; None means no limit. Enforced on Linux only.

    Raises StageError (resource) for a MemoryError. Native code usually aborts the process if it gets no memory.
    """
    if mebibytes is None or sys.platform != "linux":
        yield
        return
    pl.LazyFrame({"started": [True]}).sink_ipc(BytesIO())  # polars' threads take about 40 MiB, which do not count
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + mebibytes * 1024 * 1024
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    except MemoryError as error:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        raise StageError(f"out of memory: the stage may use {mebibytes} MiB", ErrorClass.RESOURCE) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """The size in bytes that the kernel compares with RLIMIT_DATA."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")
