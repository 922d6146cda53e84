"""Messages between the driver and stage processes: tasks to them; log lines, progress and results from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["Ended", "Log", "Message", "Progress", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to run. `key` is unique per attempt; all values are JSON.

    `inputs` are the outputs of the upstream stages (with an artifact's summary if they have a table), in the order of
    the dependencies. `memory_limit` is MiB that the attempt may add to an idle worker.
    """

    key: str
    execution_id: str
    pipeline_name: str
    stage_id: str
    attempt: int
    stage_type: str
    config: Mapping[str, Any]
    variables: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    memory_limit: int | None = None
    token: int = 0
    undo: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """A line that a stage printed or logged. `level` is a `Level` value; output of C code has the logger `stdout`."""

    key: str
    level: str
    message: str
    at: datetime
    logger: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress that a stage reports: `fraction` is 0..1, or None if unknown."""

    key: str
    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last message of an attempt. Exactly one of `output` and `error` is set.

    `output` is the summary of the stage's artifact (empty without a table), plus `report`, `side_tables` (name ->
    summary) and `effect` if the stage has them. `error` is the result of `failures.describe`, or the error that the
    attempt was killed with. `log_dropped` is the number of lines and bytes beyond the limits of a stage's output.
    """

    key: str
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    started_at: datetime
    ended_at: datetime
    log_dropped: tuple[int, int] = (0, 0)


Message = Log | Progress | Ended
