"""Stage runs: the state of one stage within an execution."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flexiroaster.model.execution import STAGE_MOVES, StageStatus
from flexiroaster.model.pipeline import Stage
from flexiroaster.safety.anomaly.stages import StageEnd
from flexiroaster.store.journal.transitions import StageChange

__all__ = ["StageRun"]


@dataclass(slots=True)
class StageRun:
    """State of a stage. `missing` counts unfinished dependencies; `attempt` counts from 1 and is 0 before the first."""

    stage: Stage
    missing: int
    status: StageStatus = StageStatus.PENDING
    attempt: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    retry_at: datetime | None = None
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_anomaly: bool = False

    def move(self, status: StageStatus) -> None:
        """Change the state. Raises AssertionError, since a transition outside the table is a defect."""
        if status not in STAGE_MOVES[self.status]:
            raise AssertionError(f"stage {self.stage.id}: {self.status} -> {status}")
        self.status = status

    def start(self, at: datetime) -> None:
        """Start the next attempt."""
        self.move(StageStatus.RUNNING)
        self.attempt += 1
        self.started_at, self.completed_at, self.retry_at = at, None, None

    def interrupt(self) -> None:
        """Revert an attempt that the engine ended; it does not count."""
        self.move(StageStatus.PENDING)
        self.attempt -= 1
        self.completed_at = None  # started_at stays, because the attempt may have had an effect

    def reset(self) -> None:
        """Reset the stage as if it had never run."""
        self.move(StageStatus.PENDING)
        self.attempt = 0
        self.started_at = self.completed_at = self.retry_at = self.output = self.error = None
        self.is_anomaly = False

    def end(self) -> StageEnd | None:
        """Result of a completed stage for the safety engine; None if it has not completed or was undone."""
        if self.status is not StageStatus.COMPLETED or self.started_at is None or self.completed_at is None:
            return None
        rows, size = ((self.output or {}).get(name) for name in ("rows", "bytes"))
        return StageEnd(
            self.stage.id,
            self.attempt,
            completed=True,
            duration_s=(self.completed_at - self.started_at).total_seconds(),
            rows=rows if isinstance(rows, int) else None,
            bytes=size if isinstance(size, int) else None,
        )

    def change(self) -> StageChange:
        """The current row of the stage."""
        times = (self.started_at, self.completed_at, self.retry_at)
        return StageChange(self.stage.id, self.status, self.attempt, *times, self.output, self.error, self.is_anomaly)
