"""The tables that stages gave: what they are, and their first rows as JSON values."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flexiroaster.engine.artifacts import Artifacts, summary_of
from flexiroaster.errors import InputError, NotFoundError, StageError
from flexiroaster.service import executions
from flexiroaster.service.executions import StageRow
from flexiroaster.service.installation import Installation

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Artifact", "ColumnType", "Preview", "listing", "of_stage", "preview"]

MOST_ROWS = 1000
"""Rows of a preview at most."""

MOST_CELLS = 100_000
"""Cells of a preview at most: of a table with very many columns fewer rows are shown."""

MOST_CHARACTERS = 2000
"""A longer text, or base64 of bytes, is cut."""

MOST_ITEMS = 100
"""A longer list within a cell is cut."""

SAFE_INTEGER = 2**53 - 1
"""Beyond this a reader of JSON may not get the same number: such integers are text."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column and its type, in the words of polars (`Int64`, `Datetime(time_unit='us', time_zone='UTC')`)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """The table of a completed stage. `bytes` and `checksum` are of its own file; columns may stand in others."""

    execution_id: str
    stage_id: str
    rows: int
    columns: tuple[ColumnType, ...]
    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a table, each a list of JSON values in the order of the columns.

    Times are ISO 8601, durations seconds, decimals and integers beyond 2**53 text, bytes base64, NaN and infinities
    null. `cut` says that texts or lists within cells were too long to be shown whole.
    """

    columns: tuple[ColumnType, ...]
    rows: tuple[list[Any], ...]
    total_rows: int
    cut: bool


_stores: WeakKeyDictionary[Installation, Artifacts] = WeakKeyDictionary()
_lock = threading.Lock()


def listing(installation: Installation, execution_id: str) -> list[Artifact]:
    """The tables of an execution, in topological order of their stages. Raises NotFoundError (execution)."""
    executions.get(installation, execution_id)
    found = (of_stage(execution_id, stage) for stage in executions.stages(installation, execution_id))
    return [artifact for artifact in found if artifact is not None]


def of_stage(execution_id: str, stage: StageRow) -> Artifact | None:
    """The table of a stage run, if it gave one."""
    summary = summary_of(stage.output or {})
    if not summary:
        return None
    return Artifact(
        execution_id=execution_id,
        stage_id=stage.stage_id,
        rows=summary["rows"],
        columns=_columns(summary),
        bytes=summary["bytes"],
        checksum=summary["checksum"],
    )


def preview(installation: Installation, execution_id: str, stage_id: str, rows: int = 20) -> Preview:
    """The first rows of a stage's table.

    Raises NotFoundError (execution, stage, no table, or it is gone), InputError (rows not from 1 to MOST_ROWS).
    """
    if not 1 <= rows <= MOST_ROWS:
        raise InputError(f"rows: must be from 1 to {MOST_ROWS}, not {rows}", argument="rows")
    summary = _summary(installation, execution_id, stage_id)
    width = max(1, len(summary["schema"]))
    table = _head(installation, execution_id, stage_id, summary, max(1, min(rows, MOST_CELLS // width)))
    cells = _Cells()
    shown = tuple([cells.plain(value) for value in row] for row in table.iter_rows())
    return Preview(_columns(summary), shown, summary["rows"], cells.cut)


def _summary(installation: Installation, execution_id: str, stage_id: str) -> dict[str, Any]:
    executions.get(installation, execution_id)
    stages = {stage.stage_id: stage for stage in executions.stages(installation, execution_id)}
    if stage_id not in stages:
        raise NotFoundError(f"Execution {execution_id} has no stage {stage_id!r}", stage_id=stage_id)
    summary = summary_of(stages[stage_id].output or {})
    if not summary:
        message = f"Stage {stage_id!r} of execution {execution_id} has no table: it is {stages[stage_id].status}"
        raise NotFoundError(message, stage_id=stage_id)
    return summary


def _head(
    installation: Installation, execution_id: str, stage_id: str, summary: Mapping[str, Any], rows: int
) -> pl.DataFrame:
    import polars as pl

    try:
        return _store(installation).scan(stage_id, summary).head(rows).collect()
    except (StageError, OSError, pl.exceptions.PolarsError) as error:  # the file is gone, or is another one
        message = f"The table of stage {stage_id!r} of execution {execution_id} is gone, or is not what was written"
        raise NotFoundError(message, stage_id=stage_id) from error


def _store(installation: Installation) -> Artifacts:
    """One for all previews: it remembers which files it has compared with their checksums."""
    with _lock:
        if installation not in _stores:
            _stores[installation] = Artifacts(installation.settings.artifacts_url)
        return _stores[installation]


def _columns(summary: Mapping[str, Any]) -> tuple[ColumnType, ...]:
    """In the order of the table."""
    schema: Mapping[str, str] = summary["schema"]
    return tuple(ColumnType(name, schema[name]) for name in summary.get("order", schema))


class _Cells:
    """Makes JSON values of cells, and remembers whether it had to cut any."""

    def __init__(self) -> None:
        self.cut = False

    def plain(self, value: Any) -> Any:  # noqa: ANN401 - whatever polars gives for a cell
        """The cell as a JSON value."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) <= SAFE_INTEGER else str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, date | time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        return self._of_some_length(value)

    def _of_some_length(self, value: Any) -> Any:  # noqa: ANN401 - as above
        if isinstance(value, Decimal):
            return str(value)
        if isinstance(value, bytes):
            self.cut |= len(value) > MOST_CHARACTERS
            return base64.b64encode(value[:MOST_CHARACTERS]).decode()
        if isinstance(value, Mapping):
            return {str(name): self.plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            self.cut |= len(value) > MOST_ITEMS
            return [self.plain(item) for item in value[:MOST_ITEMS]]
        text = str(value)
        self.cut |= len(text) > MOST_CHARACTERS
        return text[:MOST_CHARACTERS]
