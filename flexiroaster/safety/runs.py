"""What the safety engine knows of a run: when it starts, and how it ended. Times are seconds since 1970, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DAY", "HOUR", "Ending", "Outcome", "Start", "group_of"]

HOUR = 3600.0
DAY = 24 * HOUR


class Outcome(StrEnum):
    """How a run ended. A cancelled run is history, and never something to predict."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is about to start; `n_stages` is None where nobody knows."""

    pipeline_id: str
    at: float
    n_stages: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run: `duration_s` is None where nobody measured it."""

    at: float
    outcome: Outcome
    duration_s: float | None = None


def group_of(pipeline_id: str) -> str:
    """What a pipeline shares with its neighbours: its name up to the last slash; without one, nothing (empty)."""
    return pipeline_id.rpartition("/")[0]
