"""The learned state of one pipeline's stages: usual durations and output volumes, and the outcomes of retries.

It is one small JSON document per pipeline, learned from finished executions and read while others run.

Late stages: the limit in seconds is known at the stage's start, so that a timer can flag a running stage.
ln limit = level + pace + 2 f sqrt(variance of the stage + variance of the pace / (stages ended + 1)). `level` is the
stage's usual log duration. `pace` is how much slower than usual this execution's stages have been (machines differ in
speed). `f` is the scatter of those stages times the configured `tolerance`. Stages that usually take less than a second
are not watched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind, RetryPile
from flexiroaster.safety.policy import RetryOdds
from flexiroaster.safety.risk.state import JsonState

__all__ = [
    "Ewma",
    "ExecutionPace",
    "Lateness",
    "Limit",
    "PipelinePace",
    "StageEnd",
    "StageState",
    "StagesState",
    "Volume",
]

MIN_USUAL_S = 1.0
MIN_RUNS = 10
LATE_WIDTH = 2.0
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

MIN_VOLUME_RUNS = 5
MIN_VOLUME_FACTOR = math.log(3.0)
VOLUME_WIDTH = 4.0
"""An unusual volume differs by at least this factor (as a logarithm) and this many standard deviations."""


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
        width = execution.tolerance * LATE_WIDTH * execution.scatter * self._spread(execution)
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


@dataclass(slots=True)
class Volume(JsonState):
    """The usual amount of one output of one stage, such as its rows. `unit` appears in messages."""

    unit: str = "rows"
    level: Ewma = field(default_factory=Ewma)

    def ended(self, amount: float) -> Anomaly | None:
        """Learn from the amount a stage produced, as log(1 + amount); return an anomaly if it is unusual."""
        value = math.log1p(max(amount, 0.0))
        away, usual = value - self.level.mean, math.expm1(self.level.mean)
        far = self.level.values >= MIN_VOLUME_RUNS and abs(away) > max(
            MIN_VOLUME_FACTOR, VOLUME_WIDTH * self.level.spread()
        )
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
