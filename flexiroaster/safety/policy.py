"""What to do next: continue, retry, skip, pause, rollback, terminate; in this order the first that is admissible.

Pure and total: every situation has a decision, and every decision says of all six actions why they were refused or
chosen. The whole table is in tests/unit/safety/decision_table.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.safety.gate import RiskLevel

__all__ = [
    "PASSING",
    "POLICY_VERSION",
    "Action",
    "Costs",
    "Decision",
    "PolicyRules",
    "Situation",
    "Verdict",
    "decide",
]

POLICY_VERSION = "1"


class Action(StrEnum):
    """What can be done next, in the order of preference."""

    CONTINUE = "continue"
    RETRY = "retry"
    SKIP = "skip"
    PAUSE = "pause"
    ROLLBACK = "rollback"
    TERMINATE = "terminate"


PASSING = frozenset({ErrorClass.TRANSIENT, ErrorClass.TIMEOUT, ErrorClass.CRASH, ErrorClass.UNKNOWN})
"""What another attempt may get around by itself."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What an attempt and a failed execution cost, in any unit: an attempt is worth it if its odds exceed the ratio."""

    attempt: float = 1.0
    failure: float = 20.0

    @property
    def least_odds(self) -> float:
        """The odds of success from which another attempt is worth it."""
        return self.attempt / self.failure


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What a pipeline leaves to the engine, beside to retry, to skip and to terminate: to pause an execution, since
    somebody will look at it, and to roll it back.
    """

    mode: PolicyMode = PolicyMode.ACT
    pause: bool = False
    rollback: bool = False
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when a stage has failed (`error_class`), or when something is abnormal while it runs (None).

    `effects_made`: the execution has written outside. `undoable`: what it wrote can be undone. `attended`: somebody
    will look at a paused execution. `may_roll_back`: the engine may do so by itself. `retry_odds`: P(another attempt
    succeeds), where known; `retry_on`: the classes of errors that the stage is repeated after.
    """

    error_class: ErrorClass | None
    attempts_left: int
    critical: bool
    effects_made: bool
    anomaly: bool
    risk: RiskLevel
    retry_odds: float | None = None
    undoable: bool = True
    attended: bool = True
    may_roll_back: bool = True
    retry_on: frozenset[ErrorClass] = PASSING
    costs: Costs = field(default_factory=Costs)

    @property
    def alarming(self) -> bool:
        """Whether something is abnormal now and the risk was high before."""
        return self.anomaly and self.risk is RiskLevel.HIGH


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an action is admissible, and why (not)."""

    action: Action
    admissible: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The action chosen, and the verdict on all six. `propensity` is the probability with which the policy chose it."""

    situation: Situation
    action: Action
    reason: str
    verdicts: tuple[Verdict, ...]
    policy_version: str = POLICY_VERSION
    model_version: str | None = None
    propensity: float = 1.0

    @property
    def explanation(self) -> str:
        """Why this action and none that comes before it, in one sentence."""
        refused = [f"{v.action.value} ({v.reason})" for v in self.verdicts if not v.admissible]
        before = refused[: list(Action).index(self.action)]
        told = f"{self.action.value}: {self.reason}"
        return f"{told}; not {', '.join(before)}" if before else told

    def data(self) -> dict[str, Any]:
        """The decision as strict JSON values: one immutable row."""
        situation = {**asdict(self.situation), "retry_on": sorted(self.situation.retry_on)}
        return {
            **asdict(self),
            "situation": situation,
            "verdicts": [{**asdict(v), "chosen": v.action is self.action} for v in self.verdicts],
            "explanation": self.explanation,
        }


def decide(situation: Situation, model_version: str | None = None) -> Decision:
    """The first admissible action; terminate always is."""
    verdicts = tuple(_verdict(action, rule(situation)) for action, rule in _RULES.items())
    chosen = next(verdict for verdict in verdicts if verdict.admissible)
    return Decision(situation, chosen.action, chosen.reason, verdicts, model_version=model_version)


CURABLE = PASSING | {ErrorClass.RESOURCE, ErrorClass.DATA, ErrorClass.CONFIGURATION}
"""What a person can put right outside while the execution waits; its code is that of the revision it began with."""

_ADMISSIBLE: dict[Action, str] = {
    Action.CONTINUE: "nothing failed",
    Action.RETRY: "the error may pass and attempts are left",
    Action.SKIP: "the stage is not critical: the rest can do without it",
    Action.PAUSE: "a person can remove the cause, and what is done stays done",
    Action.ROLLBACK: "what was written outside can be undone",
    Action.TERMINATE: "no other action is admissible",
}


def _verdict(action: Action, objection: str | None) -> Verdict:
    return Verdict(action, objection is None, objection or _ADMISSIBLE[action])


def _against_continuing(s: Situation) -> str | None:
    if s.error_class is not None:
        return "the stage failed"
    return "an anomaly at high risk" if s.alarming and s.attended else None


def _against_retrying(s: Situation) -> str | None:
    if s.error_class is None:
        return "nothing failed"
    if s.error_class not in s.retry_on:
        return f"a {s.error_class.value} error does not pass by itself"
    if s.attempts_left <= 0:
        return "no attempts are left"
    if s.alarming:
        return "an anomaly at high risk: it would go on the same way"
    if s.retry_odds is not None and s.retry_odds < s.costs.least_odds:
        return f"it succeeds with {100 * s.retry_odds:.0f} % only, which costs more than it gains"
    return None


def _against_skipping(s: Situation) -> str | None:
    if s.error_class is None:
        return "nothing failed"
    if s.error_class is ErrorClass.CANCELLED:
        return "somebody stopped it"
    return "the stage is critical" if s.critical else None


def _against_pausing(s: Situation) -> str | None:
    if not s.attended:
        return "nobody would look at it"
    if s.error_class is not None and s.error_class not in CURABLE:
        return f"waiting does not help against a {s.error_class.value} error"
    return "half of the effects would stand at high risk" if _hazardous(s) else None


def _hazardous(s: Situation) -> bool:
    at_risk = s.error_class is not None and s.effects_made and s.risk is RiskLevel.HIGH
    return at_risk and s.undoable and s.may_roll_back


def _against_rollback(s: Situation) -> str | None:
    if s.error_class is ErrorClass.CANCELLED:
        return "whoever stopped it decides about what it wrote"
    if not s.effects_made:
        return "nothing was written outside"
    if not s.undoable:
        return "what was written outside cannot be undone"
    return None if s.may_roll_back else "that is left to people"


def _against_terminating(_: Situation) -> str | None:
    return None


_RULES: dict[Action, Callable[[Situation], str | None]] = {
    Action.CONTINUE: _against_continuing,
    Action.RETRY: _against_retrying,
    Action.SKIP: _against_skipping,
    Action.PAUSE: _against_pausing,
    Action.ROLLBACK: _against_rollback,
    Action.TERMINATE: _against_terminating,
}
