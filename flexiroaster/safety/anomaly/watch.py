"""Monitors one running execution: detects late stages and other anomalies, and decides what to do after a failure.

It works on copies of the learned state, because the engine learns from an execution only after it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.safety.anomaly.alarms import Anomaly, RetryPile
from flexiroaster.safety.anomaly.stages import ExecutionPace, PipelinePace, StageEnd, StageState
from flexiroaster.safety.policy import Decision, PolicyRules, RetryOdds, RiskLevel, Situation, decide

__all__ = ["LearnedState", "Watch"]


@dataclass(frozen=True, slots=True)
class LearnedState:
    """The learned state for a watch: a pipeline's stages (`StagesState.to_json`) and the installation's retries
    (`RetryOdds.to_json`); None before there is any.
    """

    stages: Mapping[str, Any] | None = None
    odds: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Watch:
    """The monitor of one execution. `tolerance` scales the width of the lateness limit on the log scale: 1 is the
    measured width, 2 is twice as wide. Without `detects_anomalies`, only failures are handled.
    """

    learned: LearnedState = field(default_factory=LearnedState)
    rules: PolicyRules = field(default_factory=PolicyRules)
    risk: RiskLevel = RiskLevel.LOW
    model_version: str | None = None
    tolerance: float = 1.0
    detects_anomalies: bool = True
    abnormal: bool = False
    """Whether any anomaly has been found so far."""
    _pace: ExecutionPace = field(init=False)
    _stages: dict[str, StageState] = field(default_factory=dict)
    _retries: RetryPile | None = None

    def __post_init__(self) -> None:
        stages = self._monitored  # a state that cannot be read must not fail a start that is not monitored
        self._pace = ExecutionPace(PipelinePace(stages["pace"]) if stages else PipelinePace(), self.tolerance)

    @property
    def monitors_stages(self) -> bool:
        """Whether stages are monitored: anomaly detection is enabled, and there is a learned state."""
        return self._monitored is not None

    def late_after(self, stage_id: str) -> float | None:
        """Return the seconds after which a stage that starts now is late; None if unknown or not monitored."""
        state = self._state(stage_id)
        return None if state is None else state.lateness.limit(self._pace).late_s

    def still_running(self, stage_id: str, elapsed_s: float) -> Anomaly | None:
        """Return an anomaly if a running stage is late by now."""
        state = self._state(stage_id)
        if state is None:
            return None
        return self._flag(state.lateness.still_running(elapsed_s, self._pace))

    def attempt_starts(self, *, repeated: bool) -> Anomaly | None:
        """Count a started attempt; return an anomaly if retries are unusually frequent."""
        if self._monitored is None:
            return None
        if self._retries is None:
            self._retries = RetryPile.from_json(self._monitored["retries"])
        return self._flag(self._retries.attempt(repeated=repeated))

    def stage_completed(self, end: StageEnd) -> list[Anomaly]:
        """Return the anomalies of a completed stage."""
        state = self._state(end.stage_id)
        found = [] if state is None else state.ended(end, self._pace)
        self.abnormal = self.abnormal or bool(found)
        return found

    def retry_odds(self, error_class: ErrorClass) -> float | None:
        """Return P(another attempt succeeds) after such an error; None before enough retries were seen."""
        own = RetryOdds.from_json(self.learned.stages["odds"]) if self.learned.stages else RetryOdds()
        everywhere = RetryOdds.from_json(self.learned.odds) if self.learned.odds else RetryOdds()
        return own.odds(error_class, everywhere) if own.knows(error_class) or everywhere.knows(error_class) else None

    def decide(self, situation: Situation) -> Decision | None:
        """Decide what to do; None if the policy mode is off."""
        return None if self.rules.mode is PolicyMode.OFF else decide(situation, self.model_version)

    @property
    def acts(self) -> bool:
        """Whether its decisions are carried out."""
        return self.rules.mode is PolicyMode.ACT

    @property
    def _monitored(self) -> Mapping[str, Any] | None:
        return self.learned.stages if self.detects_anomalies else None

    def _state(self, stage_id: str) -> StageState | None:
        """Return this watch's copy of the learned state of a stage; None for a new stage."""
        if stage_id not in self._stages:
            known = None if self._monitored is None else self._monitored["stages"].get(stage_id)
            if known is None:
                return None
            self._stages[stage_id] = StageState.from_json(known)
        return self._stages[stage_id]

    def _flag(self, anomaly: Anomaly | None) -> Anomaly | None:
        self.abnormal = self.abnormal or anomaly is not None
        return anomaly
