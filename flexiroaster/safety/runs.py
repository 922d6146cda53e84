"""The safety engine's view of a run: its start and its ending. Times are seconds since 1970, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DAY", "HOUR", "Ending", "Outcome", "Start", "group_of"]

HOUR = 3600.0
DAY = 24 * HOUR


class Outcome(StrEnum):
    """The outcome of a run. Cancelled runs belong to the history but are never predicted."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is about to start; `n_stages` is None if unknown."""

    pipeline_id: str
    at: float
    n_stages: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run; `duration_s` is None if unknown."""

    at: float
    outcome: Outcome
    duration_s: float | None = None


def group_of(pipeline_id: str) -> str:
    """Return the group of a pipeline: its id up to the last slash, or an empty string without one."""
    return pipeline_id.rpartition("/")[0]
