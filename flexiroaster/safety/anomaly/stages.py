"""The learned state of one pipeline's stages: usual durations and output volumes, and the outcomes of retries.

It is one small JSON document per pipeline, learned from finished executions and read while others run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind, RetryPile
from flexiroaster.safety.anomaly.lateness import Ewma, ExecutionPace, Lateness, PipelinePace
from flexiroaster.safety.policy import RetryOdds
from flexiroaster.safety.risk.state import JsonState

__all__ = ["StageEnd", "StageState", "StagesState", "Volume"]


MIN_RUNS = 5
MIN_FACTOR = math.log(3.0)
WIDTH = 4.0
"""Volumes deviate by at least this factor (as a logarithm) and this many standard deviations, after `MIN_RUNS` runs."""


@dataclass(slots=True)
class Volume(JsonState):
    """The usual amount of one output of one stage, such as its rows. `unit` appears in messages."""

    unit: str = "rows"
    level: Ewma = field(default_factory=Ewma)

    def ended(self, amount: float) -> Anomaly | None:
        """Learn from the amount a stage produced, as log(1 + amount); return an anomaly if it is unusual."""
        value = math.log1p(max(amount, 0.0))
        away, usual = value - self.level.mean, math.expm1(self.level.mean)
        far = self.level.values >= MIN_RUNS and abs(away) > max(MIN_FACTOR, WIDTH * self.level.spread())
        alert = self.level.add(value, beyond=far)
        if not far:
            return None
        message = f"{amount:.0f} {self.unit}, usually about {usual:.3g}"
        return Anomaly(AnomalyKind.VOLUME, amount, usual, message, alert)


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
class StageState(JsonState):
    """The usual duration and output volume of one stage."""

    lateness: Lateness = field(default_factory=Lateness)
    rows: Volume = field(default_factory=Volume)
    bytes: Volume = field(default_factory=lambda: Volume("bytes"))

    def ended(self, end: StageEnd, execution: ExecutionPace) -> list[Anomaly]:
        """Learn from a completed stage; return its anomalies, at most one of rows and bytes, as they correlate."""
        duration = end.duration_s
        late = None if duration is None else self.lateness.ended(duration, execution)
        rows = None if end.rows is None else self.rows.ended(end.rows)
        size = None if end.bytes is None else self.bytes.ended(end.bytes)
        return [anomaly for anomaly in (late, rows or size) if anomaly is not None]


@dataclass(slots=True)
class StagesState(JsonState):
    """The stages of one pipeline, the pace of its executions, and its retries."""

    stages: dict[str, StageState] = field(default_factory=dict)
    pace: PipelinePace = field(default_factory=PipelinePace)
    retries: RetryPile = field(default_factory=RetryPile)
    odds: RetryOdds = field(default_factory=RetryOdds)

    def execution_ended(self, ends: list[StageEnd]) -> None:
        """Learn from the stages of a finished execution, ordered by their ends."""
        execution = ExecutionPace(self.pace)
        for end in ends:
            for attempt in range(end.attempt):
                self.retries.attempt(repeated=attempt > 0)
            if end.completed:
                self.stages.setdefault(end.stage_id, StageState()).ended(end, execution)
        self.pace.add(execution.pace)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {**asdict(self), "pace": self.pace.variance}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(
            {stage_id: StageState.from_json(state) for stage_id, state in data["stages"].items()},
            PipelinePace(data["pace"]),
            RetryPile.from_json(data["retries"]),
            RetryOdds.from_json(data["odds"]),
        )
