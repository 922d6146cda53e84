"""What the driver hands to stage processes and what it hears from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["Ended", "Log", "Message", "Progress", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to be run. `key` is unique per attempt; all values are JSON.

    `inputs` are the outputs of the upstream stages (an artifact's summary, or what has none) in the order of the
    dependencies; `memory_limit` is the MiB the attempt may add to an idle worker.
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
    """A line a stage printed or logged; `level` is a value of `Level`. Output of C code has the logger `stdout`."""

    key: str
    level: str
    message: str
    at: datetime
    logger: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage says it is: `fraction` 0..1, None where it does not know."""

    key: str
    fraction: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The one last message of an attempt: exactly one of `output` and `error` is there.

    `output` is the summary of the stage's artifact (empty without a table), and where there are any `report`,
    `side_tables` (name -> summary) and `effect`. `error` is what `failures.describe` gives, or what the attempt was
    killed with. `log_dropped` counts the lines and bytes beyond the limits of a stage's output.
    """

    key: str
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    started_at: datetime
    ended_at: datetime
    log_dropped: tuple[int, int] = (0, 0)


Message = Log | Progress | Ended
