"""The learned state of one pipeline's stages: usual durations and output volumes, and the outcomes of retries.

It is one small JSON document per pipeline, learned from finished executions and read while others run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flexiroaster.errors import ErrorClass
from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind, RetryPile
from flexiroaster.safety.anomaly.lateness import ExecutionPace, Lateness, PipelinePace
from flexiroaster.safety.policy import RetryOdds
from flexiroaster.safety.risk.state import Level

__all__ = ["StageEnd", "StageState", "StagesState", "Volume"]


# Volume anomalies: a stage's rows or bytes far above or below the usual amount.
LEAST_RUNS = 5
LEAST_FACTOR = math.log(3.0)
WIDTH = 4.0


@dataclass(slots=True)
class Volume:
    """The learned level of one output count of one stage, such as its rows. `unit` appears in messages."""

    unit: str = "rows"
    level: Level = field(default_factory=Level)

    def ended(self, amount: float) -> Anomaly | None:
        """Learn from the amount a stage produced; return an anomaly if it is unusual.

        Unusual means more than a factor of three and more than four standard deviations from the usual, measured in
        log(1 + amount).
        """
        value = math.log1p(max(amount, 0.0))
        away, usual = value - self.level.mean, math.expm1(self.level.mean)
        far = self.level.values >= LEAST_RUNS and abs(away) > max(LEAST_FACTOR, WIDTH * self.level.spread())
        alert = self.level.add(value, beyond=far)
        if not far:
            return None
        message = f"{amount:.0f} {self.unit}, usually about {usual:.3g}"
        return Anomaly(AnomalyKind.VOLUME, amount, usual, message, alert)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"unit": self.unit, "level": self.level.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(data["unit"], Level.from_json(data["level"]))


@dataclass(frozen=True, slots=True)
class StageEnd:
    """The end of a stage: whether it completed, and its last `attempt` (from 1) with duration, rows and bytes."""

    stage_id: str
    attempt: int
    completed: bool
    duration_s: float | None = None
    rows: int | None = None
    bytes: int | None = None


@dataclass(slots=True)
class StageState:
    """The usual duration and output volume of one stage."""

    lateness: Lateness = field(default_factory=Lateness)
    rows: Volume = field(default_factory=Volume)
    bytes: Volume = field(default_factory=lambda: Volume("bytes"))

    def ended(
        self, end: StageEnd, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0
    ) -> Iterator[Anomaly]:
        """Learn from a completed stage and yield its anomalies; at most one of rows and bytes, as they correlate."""
        if end.duration_s is not None:
            late = self.lateness.ended(end.duration_s, execution, pipeline, patience)
            if late is not None:
                yield late
        rows = None if end.rows is None else self.rows.ended(end.rows)
        size = None if end.bytes is None else self.bytes.ended(end.bytes)
        if (found := rows or size) is not None:
            yield found

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"lateness": self.lateness.to_json(), "rows": self.rows.to_json(), "bytes": self.bytes.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        rows, size = Volume.from_json(data["rows"]), Volume.from_json(data["bytes"])
        return cls(Lateness.from_json(data["lateness"]), rows, size)


@dataclass(slots=True)
class StagesState:
    """The stages of one pipeline, the pace of its executions, and its retries."""

    stages: dict[str, StageState] = field(default_factory=dict)
    pace: PipelinePace = field(default_factory=PipelinePace)
    retries: RetryPile = field(default_factory=RetryPile)
    odds: RetryOdds = field(default_factory=RetryOdds)

    def stage(self, stage_id: str) -> StageState:
        """Return the state of a stage, creating an empty one for a new stage."""
        return self.stages.setdefault(stage_id, StageState())

    def execution_ended(self, ends: list[StageEnd]) -> None:
        """Learn from the stages of a finished execution, ordered by their ends."""
        execution = ExecutionPace()
        for end in ends:
            for attempt in range(end.attempt):
                self.retries.attempt(repeated=attempt > 0)
            if end.completed:
                list(self.stage(end.stage_id).ended(end, execution, self.pace))
        self.pace.add(execution.pace)

    def repeated(self, before: ErrorClass, *, succeeded: bool) -> None:
        """Count a finished retry; the attempt before it had failed with class `before`."""
        self.odds.add(before, succeeded=succeeded)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "stages": {stage_id: state.to_json() for stage_id, state in self.stages.items()},
            "pace": self.pace.variance,
            "retries": self.retries.to_json(),
            "odds": self.odds.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(
            {stage_id: StageState.from_json(state) for stage_id, state in data["stages"].items()},
            PipelinePace(data["pace"]),
            RetryPile.from_json(data["retries"]),
            RetryOdds.from_json(data["odds"]),
        )
