"""Late-stage detection: a limit in seconds, known at the stage's start, so that a timer can flag a running stage.

ln limit = level + pace + 2 f sqrt(variance of the stage + variance of the pace / (stages ended + 1)). `level` is the
stage's usual log duration. `pace` is how much slower than usual this execution's stages have been (machines differ in
speed). `f` is the scatter of those stages times the configured `tolerance`. Stages that usually take less than a second
are not watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.risk.state import JsonState

__all__ = ["Ewma", "ExecutionPace", "Lateness", "Limit", "PipelinePace"]

MIN_USUAL_S = 1.0
MIN_RUNS = 10
WIDTH = 2.0
OFFSET_S = 0.1
"""Added to durations before taking the logarithm, so that very short ones do not appear to scatter widely."""

PACE_STAGES = 15
"""The number of newest stages that determine an execution's pace."""

QUIET_STAGES = 10
"""The number of stages after an alert that are flagged without another alert: one cause, one alert."""

EWMA_SHARE = 1 - 0.5 ** (1 / 20.0)
"""The weight of the newest value: half-life 20 values."""

MIN_VARIANCE = 0.01
MAX_STEP = 1.0
COOLDOWN = 10
NEW_LEVEL_AFTER = 3


@dataclass(slots=True)
class Ewma(JsonState):
    """The usual level and spread of a logarithm measured once per run, robust to outliers.

    An exponentially weighted moving average (Roberts, "Control Chart Tests Based on Geometric Moving Averages", 1959).
    """

    mean: float = 0.0
    variance: float = 0.1
    values: int = 0
    beyond: int = 0  # consecutive values beyond the limit
    beyond_sum: float = 0.0
    quiet_until: int = 0  # no alert until this many values have been added

    @property
    def cooling(self) -> bool:
        """Whether the cooldown after an alert is still active."""
        return self.values < self.quiet_until

    def add(self, value: float, *, beyond: bool, expected: float = 0.0) -> bool:
        """Add a value and return whether to alert; `expected` is its expected distance from the mean."""
        alert = beyond and not self.cooling
        self._learn(value, expected)
        self._count(value, beyond=beyond)
        if alert:
            self.quiet_until = self.values + COOLDOWN
        return alert

    def _learn(self, value: float, expected: float) -> None:
        share = max(EWMA_SHARE, 1 / (self.values + 1))
        away = value - self.mean
        self.mean += share * (away if self.values == 0 else max(-MAX_STEP, min(away, MAX_STEP)))
        surprise = 0.0 if self.values == 0 else min((away - expected) ** 2, 9 * (self.variance + MIN_VARIANCE))
        self.variance += share * (surprise - self.variance) if self.values else 0.0
        self.values += 1

    def _count(self, value: float, *, beyond: bool) -> None:
        self.beyond = self.beyond + 1 if beyond else 0
        self.beyond_sum = self.beyond_sum + value if beyond else 0.0
        if self.beyond >= NEW_LEVEL_AFTER:
            self.mean, self.beyond, self.beyond_sum = self.beyond_sum / self.beyond, 0, 0.0
            self.quiet_until = self.values + COOLDOWN

    def spread(self) -> float:
        """Return the standard deviation."""
        return math.sqrt(self.variance + MIN_VARIANCE)


@dataclass(slots=True)
class PipelinePace:
    """The variance of pace between a pipeline's executions (variance of log ratios)."""

    variance: float = 0.3

    def add(self, pace: float) -> None:
        """Add the pace of a finished execution."""
        self.variance += 0.1 * (pace * pace - self.variance)


@dataclass(slots=True)
class ExecutionPace:
    """The durations of an execution's stages so far, compared with the usual ones. `tolerance` widens its limits."""

    pipeline: PipelinePace = field(default_factory=PipelinePace)
    tolerance: float = 1.0
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
        self.surprises = [*self.surprises, surprise][-PACE_STAGES:]
        self.scaled = [*self.scaled, scaled][-PACE_STAGES:]
        self.stages += 1


@dataclass(frozen=True, slots=True)
class Limit:
    """The usual duration and the limit `late_s` in seconds; None if there is too little data or no watching."""

    usual_s: float
    late_s: float | None


@dataclass(slots=True)
class Lateness(JsonState):
    """The learned durations of one stage of one pipeline."""

    level: Ewma = field(default_factory=Ewma)

    def limit(self, execution: ExecutionPace) -> Limit:
        """Return the limit for a stage that starts now."""
        usual = math.exp(self.level.mean + execution.pace) - OFFSET_S
        if self.level.values < MIN_RUNS or math.exp(self.level.mean) - OFFSET_S < MIN_USUAL_S:
            return Limit(max(usual, 0.0), None)
        width = execution.tolerance * WIDTH * execution.scatter * self._spread(execution)
        return Limit(max(usual, 0.0), math.exp(self.level.mean + execution.pace + width) - OFFSET_S)

    def ended(self, duration_s: float, execution: ExecutionPace) -> Anomaly | None:
        """Learn from a completed stage; return an anomaly if it was late, even if a timer has already flagged it."""
        limit, value = self.limit(execution), math.log(max(duration_s, 0.0) + OFFSET_S)
        late = limit.late_s is not None and duration_s > limit.late_s
        pace, surprise, spread = execution.pace, value - self.level.mean, self._spread(execution)
        known, watched = self.level.values > 0, math.exp(self.level.mean) - OFFSET_S >= MIN_USUAL_S / 10
        alert = self.level.add(value, beyond=late, expected=pace) and execution.stages >= execution.quiet_until
        if known and watched:
            execution.add(surprise, (surprise - pace) / spread)
        if not late:
            return None
        if alert:
            execution.quiet_until = execution.stages + QUIET_STAGES
        return _late(duration_s, limit, alert=alert)

    def still_running(self, elapsed_s: float, execution: ExecutionPace) -> Anomaly | None:
        """Return an anomaly if a running stage is already late, without learning from it. For use by a timer."""
        limit = self.limit(execution)
        if limit.late_s is None or elapsed_s <= limit.late_s:
            return None
        return _late(elapsed_s, limit, alert=not self.level.cooling and execution.stages >= execution.quiet_until)

    def _spread(self, execution: ExecutionPace) -> float:
        return math.sqrt(self.level.spread() ** 2 + execution.pipeline.variance / (len(execution.surprises) + 1))


def _late(seconds: float, limit: Limit, *, alert: bool) -> Anomaly:
    message = f"{seconds:.3g} s, usually {limit.usual_s:.3g} s; late after {limit.late_s:.3g} s"
    return Anomaly(AnomalyKind.LATE, seconds, limit.usual_s, message, alert)
