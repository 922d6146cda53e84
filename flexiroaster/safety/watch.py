"""Watches one execution while it runs: what is late or unusual, and what is to be done about a failure.

It works on copies of what is remembered: an execution is learned from when it has ended, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.safety.anomaly import Anomaly
from flexiroaster.safety.bursts import RetryPile
from flexiroaster.safety.gate import RiskLevel
from flexiroaster.safety.lateness import ExecutionPace, PipelinePace
from flexiroaster.safety.policy import Decision, PolicyRules, Situation, decide
from flexiroaster.safety.retry_odds import RetryOdds
from flexiroaster.safety.stages import StageEnd, StageState

__all__ = ["Remembered", "Watch"]


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a pipeline's stages (as `StagesState.to_json` wrote it, None: nothing yet), and of repeated
    attempts anywhere (`RetryOdds.to_json`).
    """

    stages: Mapping[str, Any] | None = None
    odds: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Watch:
    """One execution's watch. `patience` widens the limit from which a stage is late: 1 as measured, 2 twice as wide
    on the scale of logarithms; `watches` is whether anything but failures is looked at.
    """

    remembered: Remembered = field(default_factory=Remembered)
    rules: PolicyRules = field(default_factory=PolicyRules)
    risk: RiskLevel = RiskLevel.LOW
    model_version: str | None = None
    patience: float = 1.0
    watches: bool = True
    abnormal: bool = False
    """Whether anything was flagged so far."""
    _pace: ExecutionPace = field(default_factory=ExecutionPace)
    _stages: dict[str, StageState] = field(default_factory=dict)
    _retries: RetryPile | None = None

    @property
    def looks(self) -> bool:
        """Whether it looks at stages at all: it is asked to, and something is known of them."""
        return self.watches and self.remembered.stages is not None

    def late_after(self, stage_id: str) -> float | None:
        """Seconds after which a stage that starts now is late; None where that is not known or not watched."""
        state = self._state(stage_id)
        return None if state is None else state.lateness.limit(self._pace, self._pipeline(), self.patience).late_s

    def still_running(self, stage_id: str, elapsed_s: float) -> Anomaly | None:
        """Whether a stage that has not ended is late by now."""
        state = self._state(stage_id)
        if state is None:
            return None
        return self._flag(state.lateness.still_running(elapsed_s, self._pace, self._pipeline(), self.patience))

    def attempt_starts(self, *, repeated: bool) -> Anomaly | None:
        """Whether repetitions pile up."""
        if not self.looks or self.remembered.stages is None:
            return None
        if self._retries is None:
            self._retries = RetryPile.from_json(self.remembered.stages["retries"])
        return self._flag(self._retries.attempt(repeated=repeated))

    def stage_completed(self, end: StageEnd) -> list[Anomaly]:
        """What is unusual about a stage that completed."""
        state = self._state(end.stage_id)
        if state is None:
            return []
        found = list(state.ended(end, self._pace, self._pipeline(), self.patience))
        self.abnormal = self.abnormal or bool(found)
        return found

    def retry_odds(self, error_class: ErrorClass) -> float | None:
        """P(another attempt succeeds) after such an error; None before enough attempts were repeated to know."""
        own = RetryOdds.from_json(self.remembered.stages["odds"]) if self.remembered.stages else RetryOdds()
        everywhere = RetryOdds.from_json(self.remembered.odds) if self.remembered.odds else RetryOdds()
        return own.odds(error_class, everywhere) if own.knows(error_class) or everywhere.knows(error_class) else None

    def decide(self, situation: Situation) -> Decision | None:
        """What to do; None where no decisions are made."""
        return None if self.rules.mode is PolicyMode.OFF else decide(situation, self.model_version)

    @property
    def acts(self) -> bool:
        """Whether what it decides is to be done."""
        return self.rules.mode is PolicyMode.ACT

    def _state(self, stage_id: str) -> StageState | None:
        """What is remembered of a stage, as a copy; None of one that is new."""
        if not self.looks or self.remembered.stages is None:
            return None
        if stage_id not in self._stages:
            known = self.remembered.stages["stages"].get(stage_id)
            if known is None:
                return None
            self._stages[stage_id] = StageState.from_json(known)
        return self._stages[stage_id]

    def _pipeline(self) -> PipelinePace:
        return PipelinePace(self.remembered.stages["pace"]) if self.remembered.stages else PipelinePace()

    def _flag(self, anomaly: Anomaly | None) -> Anomaly | None:
        self.abnormal = self.abnormal or anomaly is not None
        return anomaly
