"""Late-stage detection: a limit in seconds, known at the stage's start, so that a timer can flag a running stage.

ln limit = level + pace + 2 f sqrt(variance of the stage + variance of the pace / (stages ended + 1)). `level` is the
stage's usual log duration. `pace` is how much slower than usual this execution's stages have been (machines differ in
speed). `f` is the scatter of those stages times the configured `patience`. Stages that usually take less than a second
are not watched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.risk.state import Level

__all__ = ["ExecutionPace", "Lateness", "Limit", "PipelinePace"]

LEAST_USUAL_S = 1.0
LEAST_RUNS = 10
WIDTH = 2.0
OFFSET_S = 0.1
"""Added to durations before taking the logarithm, so that very short ones do not appear to scatter widely."""

REMEMBERED = 15
"""The number of newest stages that determine an execution's pace."""

QUIET_STAGES = 10
"""The number of stages after an alert that are flagged without another alert: one cause, one alert."""


@dataclass(slots=True)
class PipelinePace:
    """The variance of pace between a pipeline's executions (variance of log ratios)."""

    variance: float = 0.3

    def add(self, pace: float) -> None:
        """Add the pace of a finished execution."""
        self.variance += 0.1 * (pace * pace - self.variance)


@dataclass(slots=True)
class ExecutionPace:
    """The durations of one execution's stages so far, compared with their usual durations."""

    surprises: list[float] = field(default_factory=list)  # log ratio to the usual duration
    scaled: list[float] = field(default_factory=list)  # the same with the pace removed, in standard deviations
    stages: int = 0
    quiet_until: int = 0

    @property
    def pace(self) -> float:
        """The log of how much slower than usual this execution is, shrunk toward 0 while few stages have ended."""
        known = len(self.surprises)
        return median(self.surprises) * known / (known + 1) if known else 0.0

    @property
    def scatter(self) -> float:
        """The scatter of its stages relative to the usual scatter, shrunk toward 1."""
        squares = sum(min(s * s, 9.0) for s in self.scaled)
        return math.sqrt((4.0 + squares) / (4.0 + len(self.scaled)))

    def add(self, surprise: float, scaled: float) -> None:
        """Add a finished stage."""
        self.surprises = [*self.surprises, surprise][-REMEMBERED:]
        self.scaled = [*self.scaled, scaled][-REMEMBERED:]
        self.stages += 1

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Limit:
    """The usual duration and the limit `late_s` in seconds; None if there is too little data or no watching."""

    usual_s: float
    late_s: float | None


@dataclass(slots=True)
class Lateness:
    """The learned durations of one stage of one pipeline."""

    level: Level = field(default_factory=Level)

    def limit(self, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0) -> Limit:
        """Return the limit for a stage that starts now; `patience` widens it on the log scale."""
        usual = math.exp(self.level.mean + execution.pace) - OFFSET_S
        if self.level.values < LEAST_RUNS or math.exp(self.level.mean) - OFFSET_S < LEAST_USUAL_S:
            return Limit(max(usual, 0.0), None)
        width = patience * WIDTH * execution.scatter * self._spread(execution, pipeline)
        return Limit(max(usual, 0.0), math.exp(self.level.mean + execution.pace + width) - OFFSET_S)

    def ended(
        self, duration_s: float, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0
    ) -> Anomaly | None:
        """Learn from a completed stage; return an anomaly if it was late, even if a timer has already flagged it."""
        limit, value = self.limit(execution, pipeline, patience), math.log(max(duration_s, 0.0) + OFFSET_S)
        late = limit.late_s is not None and duration_s > limit.late_s
        pace, surprise, spread = execution.pace, value - self.level.mean, self._spread(execution, pipeline)
        known, watched = self.level.values > 0, math.exp(self.level.mean) - OFFSET_S >= LEAST_USUAL_S / 10
        alert = self.level.add(value, beyond=late, expected=pace) and execution.stages >= execution.quiet_until
        if known and watched:
            execution.add(surprise, (surprise - pace) / spread)
        if not late:
            return None
        if alert:
            execution.quiet_until = execution.stages + QUIET_STAGES
        return _late(duration_s, limit, alert=alert)

    def still_running(
        self, elapsed_s: float, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0
    ) -> Anomaly | None:
        """Return an anomaly if a running stage is already late, without learning from it. For use by a timer."""
        limit = self.limit(execution, pipeline, patience)
        if limit.late_s is None or elapsed_s <= limit.late_s:
            return None
        return _late(elapsed_s, limit, alert=not self.level.cooling and execution.stages >= execution.quiet_until)

    def _spread(self, execution: ExecutionPace, pipeline: PipelinePace) -> float:
        return math.sqrt(self.level.spread() ** 2 + pipeline.variance / (len(execution.surprises) + 1))

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"level": self.level.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls(Level.from_json(data["level"]))


def _late(seconds: float, limit: Limit, *, alert: bool) -> Anomaly:
    message = f"{seconds:.3g} s, usually {limit.usual_s:.3g} s; late after {limit.late_s:.3g} s"
    return Anomaly(AnomalyKind.LATE, seconds, limit.usual_s, message, alert)
