"""Artifacts: the tables that stages produced, with their metadata and a preview of their first rows as JSON values."""

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

from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.errors import InputError, NotFoundError, StageError
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import StageRow
from flexiroaster.service.installation import Installation

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Artifact", "ColumnType", "Preview", "listing", "of_stage", "preview"]

MAX_ROWS = 1000
"""Maximum number of rows in a preview."""

MAX_CELLS = 100_000
"""Maximum number of cells in a preview: a table with very many columns shows fewer rows."""

MAX_CHARACTERS = 2000
"""Longer text is truncated, and so are longer bytes before they are encoded as base64."""

MAX_ITEMS = 100
"""Longer lists within a cell are truncated."""

SAFE_INTEGER = 2**53 - 1
"""Larger integers are shown as text, because a JSON parser may not read the same number."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column and its polars type, such as `Int64` or `Datetime(time_unit='us', time_zone='UTC')`."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """The table of a completed stage.

    `bytes` and `checksum` describe the stage's own file; some columns may be stored in the files of earlier stages.
    """

    execution_id: str
    stage_id: str
    rows: int
    columns: tuple[ColumnType, ...]
    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a table, each a list of JSON values in column order.

    Times are ISO 8601, durations are seconds, decimals and integers beyond 2**53 are text, bytes are base64, NaN and
    infinities are null. `cut` is true if any text, bytes or list within a cell was truncated.
    """

    columns: tuple[ColumnType, ...]
    rows: tuple[list[Any], ...]
    total_rows: int
    cut: bool


_stores: WeakKeyDictionary[Installation, Artifacts] = WeakKeyDictionary()
_lock = threading.Lock()


def listing(installation: Installation, execution_id: str) -> list[Artifact]:
    """List the tables of an execution, in topological order of their stages. Raises NotFoundError (execution)."""
    executions.get(installation, execution_id)
    found = (of_stage(execution_id, stage) for stage in executions.stages(installation, execution_id))
    return [artifact for artifact in found if artifact is not None]


def of_stage(execution_id: str, stage: StageRow) -> Artifact | None:
    """The table of a stage, or None if it produced none."""
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
    """Read the first rows of a stage's table.

    Raises NotFoundError (no such execution or stage, no table, or the table is gone), InputError (`rows` is not from
    1 to MAX_ROWS).
    """
    if not 1 <= rows <= MAX_ROWS:
        raise InputError(f"rows: must be from 1 to {MAX_ROWS}, got {rows}", argument="rows")
    summary = _summary(installation, execution_id, stage_id)
    width = max(1, len(summary["schema"]))
    table = _head(installation, execution_id, stage_id, summary, max(1, min(rows, MAX_CELLS // width)))
    cells = _Cells()
    shown = tuple([cells.to_json(value) for value in row] for row in table.iter_rows())
    return Preview(_columns(summary), shown, summary["rows"], cells.cut)


def _summary(installation: Installation, execution_id: str, stage_id: str) -> dict[str, Any]:
    executions.get(installation, execution_id)
    stage = next((s for s in executions.stages(installation, execution_id) if s.stage_id == stage_id), None)
    if stage is None:
        raise NotFoundError(f"Execution {execution_id} has no stage {stage_id!r}", stage_id=stage_id)
    summary = summary_of(stage.output or {})
    if not summary:
        message = f"Stage {stage_id!r} of execution {execution_id} is {stage.status} and has no table"
        raise NotFoundError(message, stage_id=stage_id)
    return summary


def _head(
    installation: Installation, execution_id: str, stage_id: str, summary: Mapping[str, Any], rows: int
) -> pl.DataFrame:
    import polars as pl

    try:
        return _store(installation).scan(stage_id, summary).head(rows).collect()
    except (StageError, OSError, pl.exceptions.PolarsError) as error:  # the file is gone or was replaced
        message = f"The table of stage {stage_id!r} of execution {execution_id} was deleted or altered after writing"
        raise NotFoundError(message, stage_id=stage_id) from error


def _store(installation: Installation) -> Artifacts:
    """Return the store that all previews of an installation share: it caches which files match their checksums."""
    with _lock:
        if installation not in _stores:
            _stores[installation] = Artifacts(installation.settings.artifacts_url)
        return _stores[installation]


def _columns(summary: Mapping[str, Any]) -> tuple[ColumnType, ...]:
    schema: Mapping[str, str] = summary["schema"]
    return tuple(ColumnType(name, schema[name]) for name in summary.get("order", schema))


class _Cells:
    """Converts cells to JSON values, and records whether it truncated any."""

    def __init__(self) -> None:
        self.cut = False

    def to_json(self, value: Any) -> Any:  # noqa: ANN401 - any value that polars returns for a cell
        """Convert a cell to a JSON value."""
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
        return self._nested_to_json(value)

    def _nested_to_json(self, value: Any) -> Any:  # noqa: ANN401 - as above
        if isinstance(value, Decimal):
            return str(value)
        if isinstance(value, bytes):
            self.cut |= len(value) > MAX_CHARACTERS
            return base64.b64encode(value[:MAX_CHARACTERS]).decode()
        if isinstance(value, Mapping):
            return {str(name): self.to_json(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            self.cut |= len(value) > MAX_ITEMS
            return [self.to_json(item) for item in value[:MAX_ITEMS]]
        text = str(value)
        self.cut |= len(text) > MAX_CHARACTERS
        return text[:MAX_CHARACTERS]
