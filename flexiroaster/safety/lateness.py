"""When a stage is late: a limit in seconds, known when the stage starts, so that a timer can flag it while it runs.

ln limit = level + pace + 2 f sqrt(variance of the stage + variance of the pace / (stages ended + 1)), where `level` is
the stage's usual log duration, `pace` how much slower than usual this execution's stages were so far (one machine is
slower than another), and `f` how much they scattered, times the `patience` that was asked for. A stage that usually
takes less than a second is not watched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

from flexiroaster.safety.anomaly import Anomaly, AnomalyKind
from flexiroaster.safety.level import Level

__all__ = ["ExecutionPace", "Lateness", "Limit", "PipelinePace"]

LEAST_USUAL_S = 1.0
LEAST_RUNS = 10
WIDTH = 2.0
OFFSET_S = 0.1
"""Added to durations before the logarithm, so that very short ones do not look scattered."""

REMEMBERED = 15
"""Stages of an execution that its pace is taken from."""

QUIET_STAGES = 10
"""After an alert the next stages of that execution are flagged but alert nobody: one cause, one alert."""


@dataclass(slots=True)
class PipelinePace:
    """How much the pace of a pipeline's executions differs (variance of log ratios)."""

    variance: float = 0.3

    def add(self, pace: float) -> None:
        """An execution ended with this pace."""
        self.variance += 0.1 * (pace * pace - self.variance)


@dataclass(slots=True)
class ExecutionPace:
    """How the stages of one execution did so far, compared with their usual durations."""

    surprises: list[float] = field(default_factory=list)  # log ratio to the usual duration
    scaled: list[float] = field(default_factory=list)  # the same without the pace, in standard deviations
    stages: int = 0
    quiet_until: int = 0

    @property
    def pace(self) -> float:
        """The log of how much slower than usual this execution is, drawn to 0 while few stages have ended."""
        known = len(self.surprises)
        return median(self.surprises) * known / (known + 1) if known else 0.0

    @property
    def scatter(self) -> float:
        """How much more (or less) than usual its stages scatter, drawn to 1."""
        squares = sum(min(s * s, 9.0) for s in self.scaled)
        return math.sqrt((4.0 + squares) / (4.0 + len(self.scaled)))

    def add(self, surprise: float, scaled: float) -> None:
        """A stage ended."""
        self.surprises = [*self.surprises, surprise][-REMEMBERED:]
        self.scaled = [*self.scaled, scaled][-REMEMBERED:]
        self.stages += 1

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Limit:
    """After `late_s` seconds the stage is late; None while too little is known, or where it is not watched."""

    usual_s: float
    late_s: float | None


@dataclass(slots=True)
class Lateness:
    """What is known of the durations of one stage of one pipeline."""

    level: Level = field(default_factory=Level)

    def limit(self, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0) -> Limit:
        """The limit for a stage that starts now; `patience` widens it, on the scale of logarithms."""
        usual = math.exp(self.level.mean + execution.pace) - OFFSET_S
        if self.level.values < LEAST_RUNS or math.exp(self.level.mean) - OFFSET_S < LEAST_USUAL_S:
            return Limit(max(usual, 0.0), None)
        width = patience * WIDTH * execution.scatter * self._spread(execution, pipeline)
        return Limit(max(usual, 0.0), math.exp(self.level.mean + execution.pace + width) - OFFSET_S)

    def ended(
        self, duration_s: float, execution: ExecutionPace, pipeline: PipelinePace, patience: float = 1.0
    ) -> Anomaly | None:
        """A stage completed: learn from it, and say whether it was late (also when a timer has said so before)."""
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
        """What a timer asks about a stage that has not ended: whether it is late already. Nothing is learned."""
        limit = self.limit(execution, pipeline, patience)
        if limit.late_s is None or elapsed_s <= limit.late_s:
            return None
        return _late(elapsed_s, limit, alert=not self.level.cooling and execution.stages >= execution.quiet_until)

    def _spread(self, execution: ExecutionPace, pipeline: PipelinePace) -> float:
        return math.sqrt(self.level.spread() ** 2 + pipeline.variance / (len(execution.surprises) + 1))

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"level": self.level.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        return cls(Level.from_json(data["level"]))


def _late(seconds: float, limit: Limit, *, alert: bool) -> Anomaly:
    message = f"{seconds:.3g} s, usually {limit.usual_s:.3g} s; late from {limit.late_s:.3g} s on"
    return Anomaly(AnomalyKind.LATE, seconds, limit.usual_s, message, alert)
