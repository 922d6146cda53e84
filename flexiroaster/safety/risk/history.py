"""A columnar history of runs, its replay (at each start, only runs that ended earlier are known), and its files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flexiroaster.errors import FlexiRoasterError
from flexiroaster.model.validation_messages import shown
from flexiroaster.safety.risk.factors import Ledger, Past, features
from flexiroaster.safety.risk.state import Ending, Outcome, Start

__all__ = [
    "History",
    "HistoryFileError",
    "feature_rows",
    "history_frame",
    "read_history",
    "read_stages",
    "replay",
]

Floats = NDArray[np.float64]

REQUIRED = ("pipeline_id", "started_at", "finished_at", "status")
STAGE_COLUMNS = ("execution_id", "stage", "duration_s", "status")


@dataclass(frozen=True, slots=True)
class History:
    """Runs ordered by start. Times are seconds since 1970, UTC; a run never ends before its start.

    Runs that start or end at the same moment are ordered by pipeline, then by execution id, so that results do not
    depend on the row order of the source.
    """

    pipeline_id: list[str]
    started_at: Floats
    finished_at: Floats
    outcome: list[Outcome]
    duration_s: list[float | None]
    n_stages: list[int | None]
    execution_id: list[str] | None = None

    def __len__(self) -> int:
        return len(self.pipeline_id)

    @property
    def target(self) -> Floats:
        """The outcome of each run: 1.0 failed, 0.0 completed, NaN cancelled (never predicted)."""
        values = {Outcome.FAILED: 1.0, Outcome.COMPLETED: 0.0, Outcome.CANCELLED: float("nan")}
        return np.array([values[outcome] for outcome in self.outcome], dtype=np.float64)

    def in_order(self) -> History:
        """Return the same runs ordered by start."""
        rows = self.order(self.started_at)
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return History(**{name: _taken(values, rows) for name, values in columns.items()})

    def order(self, times: Floats) -> list[int]:
        """Return the row numbers ordered by these times; ties by pipeline, then by execution id."""
        keys = list(zip(times.tolist(), self.pipeline_id, self.execution_id or [""] * len(self), strict=True))
        return sorted(range(len(self)), key=keys.__getitem__)

    def starts(self) -> Iterator[Start]:
        """Yield each run as known at its start."""
        for row in zip(self.pipeline_id, self.started_at.tolist(), self.n_stages, strict=True):
            yield Start(*row)

    def ending(self, row: int) -> Ending:
        """Return the ending of a run."""
        return Ending(float(self.finished_at[row]), self.outcome[row], self.duration_s[row])


def _taken(column: Any, rows: Sequence[int]) -> Any:  # noqa: ANN401 - an array stays one, a list stays one
    if column is None:
        return None
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


def replay(history: History) -> Iterator[tuple[Start, Past]]:
    """Yield each run start in order, with the past of its pipeline known just before.

    A run counts only after its end: one that ends at the exact time of a start is not yet known then. The `Past` is
    live: read it before requesting the next start.
    """
    ledger, order = Ledger(), history.order(history.finished_at)
    finished, ended = history.finished_at[order].tolist(), 0
    for start in history.starts():
        while ended < len(order) and finished[ended] < start.at:
            row = order[ended]
            ledger.add(history.pipeline_id[row], history.ending(row))
            ended += 1
        yield start, ledger.past(start.pipeline_id)


def feature_rows(history: History) -> Floats:
    """Return the features of every start (runs x features)."""
    rows = [features(start, past) for start, past in replay(history)]
    return np.array(rows, dtype=np.float64).reshape(len(history), -1)


# --- files; errors name the first bad row ---


class HistoryFileError(FlexiRoasterError):
    """A history file is unusable; the message names the file, the column and the first bad row (from 1)."""

    code = "history.invalid"


def read_history(path: Path) -> History:
    """Read the runs of a file, ordered by start; a run without an id gets one derived from its content.

    Raises HistoryFileError.
    """
    frame = _read(path, REQUIRED)
    frame = frame.with_columns(
        _text(path, frame, "pipeline_id"),
        _time(path, frame, "started_at"),
        _time(path, frame, "finished_at"),
        _text(path, frame, "status").str.to_lowercase(),
        _number(path, frame, "duration_s", pl.Float64),
        _number(path, frame, "n_stages", pl.Int64),
    )
    _check(
        path,
        frame,
        ~pl.col("status").is_in([o.value for o in Outcome]),
        "status",
        f"is not one of {', '.join(Outcome)}",
    )
    _check(path, frame, pl.col("finished_at") < pl.col("started_at"), "finished_at", "is before started_at")
    return _history(frame)


def read_stages(path: Path) -> pl.DataFrame:
    """Read the stage rows of a file: execution_id, stage, duration_s, status. Raises HistoryFileError."""
    frame = _read(path, STAGE_COLUMNS)
    return frame.select(
        _text(path, frame, "execution_id"),
        _text(path, frame, "stage"),
        _number(path, frame, "duration_s", pl.Float64),
        _text(path, frame, "status"),
    )


def history_frame(history: History) -> pl.DataFrame:
    """Convert a history to the columns that `read_history` reads, to write it as parquet or CSV."""
    return pl.DataFrame(
        {
            "execution_id": history.execution_id or [None] * len(history),
            "pipeline_id": history.pipeline_id,
            "started_at": _times(history.started_at),
            "finished_at": _times(history.finished_at),
            "status": [outcome.value for outcome in history.outcome],
            "duration_s": history.duration_s,
            "n_stages": history.n_stages,
        },
        schema_overrides={"execution_id": pl.String, "duration_s": pl.Float64, "n_stages": pl.Int64},
    )


def _times(seconds: NDArray[np.float64]) -> pl.Series:
    return pl.Series(np.round(seconds * 1e6).astype(np.int64)).cast(pl.Datetime("us", "UTC"))


def _read(path: Path, required: tuple[str, ...]) -> pl.DataFrame:
    kind = path.suffix.lower()
    if kind not in {".parquet", ".csv"}:
        raise HistoryFileError(f"{path}: a history must be a .parquet or .csv file")
    try:
        frame = pl.read_parquet(path) if kind == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise HistoryFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise HistoryFileError(f"{path}: missing column {', '.join(missing)}; the file has {', '.join(frame.columns)}")
    if frame.is_empty():
        raise HistoryFileError(f"{path}: the file has no rows")
    return frame


def _text(path: Path, frame: pl.DataFrame, name: str) -> pl.Expr:
    values = pl.col(name).cast(pl.String, strict=False)
    _check(path, frame, values.is_null() | (values == ""), name, "is empty")
    return values


def _time(path: Path, frame: pl.DataFrame, name: str) -> pl.Expr:
    kind, column = frame.schema[name], pl.col(name)
    if kind == pl.String:
        values = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    elif isinstance(kind, pl.Datetime):
        values = column.dt.replace_time_zone("UTC") if kind.time_zone is None else column.dt.convert_time_zone("UTC")
    else:
        raise HistoryFileError(f"{path}: column {name} has type {kind}, not a date and time")
    _check(path, frame, values.is_null(), name, "is not a time such as 2026-11-25T08:30:00Z")
    return values.dt.cast_time_unit("us").alias(name)


def _number(path: Path, frame: pl.DataFrame, name: str, kind: type[pl.Float64 | pl.Int64]) -> pl.Expr:
    if name not in frame.columns:
        return pl.lit(None, dtype=kind).alias(name)
    values = pl.col(name).cast(kind, strict=False)
    bad = (values.is_null() & pl.col(name).is_not_null()) | (values < 0)
    if kind is pl.Float64:
        bad = bad | values.is_infinite()
        values = values.fill_nan(None)
    _check(path, frame, bad, name, "is not a number of 0 or more")
    return values


def _check(path: Path, frame: pl.DataFrame, bad: pl.Expr, name: str, reason: str) -> None:
    rows = frame.with_row_index("row__", offset=1).filter(bad)
    if not rows.is_empty():
        first = rows.row(0, named=True)
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise HistoryFileError(f"{path}: row {first['row__']}: {name} {shown(_plain(first[name]))} {reason}{more}")


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else str(value)


def _history(frame: pl.DataFrame) -> History:
    given = pl.col("execution_id").cast(pl.String) if "execution_id" in frame.columns else pl.lit(None, dtype=pl.String)
    content = (*REQUIRED, "execution_id", "duration_s", "n_stages")
    frame = frame.with_columns(given.alias("execution_id")).sort(content)  # equal rows get interchangeable ids
    return History(
        pipeline_id=frame["pipeline_id"].to_list(),
        started_at=_seconds(frame["started_at"]),
        finished_at=_seconds(frame["finished_at"]),
        outcome=[Outcome(status) for status in frame["status"]],
        duration_s=frame["duration_s"].to_list(),
        n_stages=frame["n_stages"].to_list(),
        execution_id=_execution_ids(frame),
    ).in_order()


def _execution_ids(frame: pl.DataFrame) -> list[str]:
    """Return the run ids; a missing id is derived from the run's content, so that a second import recognizes it."""
    seen: Counter[tuple[object, ...]] = Counter()
    names = []
    for given, *content in frame.select("execution_id", *REQUIRED).iter_rows():
        same = tuple(content)
        seen[same] += 1
        digest = hashlib.sha256("\0".join(map(str, (*same, seen[same]))).encode()).hexdigest()
        names.append(given or f"import-{digest[:24]}")
    return names


def _seconds(times: pl.Series) -> NDArray[np.float64]:
    return times.to_physical().to_numpy().astype(np.float64) / 1e6
