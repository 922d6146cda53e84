"""The failure policy: chooses the first admissible of continue, retry, skip, pause, rollback and terminate.

The policy is pure and total: every situation has a decision, and every decision records for all six actions why they
were refused or admissible. The whole table is in tests/unit/safety/decision_table.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from flexiroaster.config import PolicyMode
from flexiroaster.errors import ErrorClass
from flexiroaster.safety.risk.state import DecayedRate, JsonState

__all__ = [
    "PASSING",
    "POLICY_VERSION",
    "Action",
    "Costs",
    "Decision",
    "Gate",
    "PolicyRules",
    "RetryOdds",
    "RiskLevel",
    "Situation",
    "Thresholds",
    "Verdict",
    "decide",
]


# --- before a run: the risk level and the gate -----------------------------------------------------------------------


class RiskLevel(StrEnum):
    """The risk level of a run."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Gate(StrEnum):
    """The answer of the gate before a run."""

    ALLOW = "allow"
    WARN = "warn"
    APPROVE = "require_approval"  # the execution starts paused until a user resumes it
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The lower bounds of medium and high risk, and the gate's answer at high risk; medium risk gets a warning.

    Without `block_unknown`, a pipeline without a finished run is never blocked: its probability comes from other
    pipelines, and blocking would keep it from ever getting a history of its own.
    """

    medium: float = 0.4
    high: float = 0.7
    at_high: Gate = Gate.WARN
    block_unknown: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.medium <= self.high <= 1:
            raise ValueError(f"thresholds must be 0 <= medium <= high <= 1, not {self.medium} and {self.high}")

    def level(self, probability: float) -> RiskLevel:
        """Return the risk level of a failure probability."""
        if probability >= self.high:
            return RiskLevel.HIGH
        return RiskLevel.MEDIUM if probability >= self.medium else RiskLevel.LOW

    def gate(self, probability: float, *, has_run: bool = True) -> Gate:
        """Return the gate's answer to a failure probability; `has_run` is whether a run of the pipeline has ended."""
        spared = self.at_high is Gate.BLOCK and not has_run and not self.block_unknown
        at_high = Gate.WARN if spared else self.at_high
        answers = {RiskLevel.LOW: Gate.ALLOW, RiskLevel.MEDIUM: Gate.WARN, RiskLevel.HIGH: at_high}
        return answers[self.level(probability)]


# --- after a failure -------------------------------------------------------------------------------------------------


POLICY_VERSION = "1"


class Action(StrEnum):
    """The possible actions, in order of preference."""

    CONTINUE = "continue"
    RETRY = "retry"
    SKIP = "skip"
    PAUSE = "pause"
    ROLLBACK = "rollback"
    TERMINATE = "terminate"


PASSING = frozenset({ErrorClass.TRANSIENT, ErrorClass.TIMEOUT, ErrorClass.CRASH, ErrorClass.UNKNOWN})
"""Error classes that a retry may resolve."""


CURABLE = PASSING | {ErrorClass.RESOURCE, ErrorClass.DATA, ErrorClass.CONFIGURATION}
"""Error classes whose cause a person can fix during a pause; not `code`: an execution keeps its first revision."""

ASSUMED = {
    ErrorClass.TRANSIENT: 0.6,
    ErrorClass.TIMEOUT: 0.4,
    ErrorClass.CRASH: 0.3,
    ErrorClass.UNKNOWN: 0.3,
    ErrorClass.RESOURCE: 0.15,
}
"""P(a retry succeeds) assumed before any data, by judgment; 0.02 for other classes."""

RETRY_HALF_LIFE = 50.0
RETRY_STRENGTH = 4.0
MIN_RETRIES = 10.0
"""The minimum weighted number of retries after errors of a class for its odds to count as known."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of an attempt and of a failed execution, in any unit; only their ratio matters."""

    attempt: float = 1.0
    failure: float = 20.0

    @property
    def min_odds(self) -> float:
        """The minimum probability of success that justifies another attempt."""
        return self.attempt / self.failure


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """The actions a pipeline allows besides retry, skip and terminate: to `pause` (people review paused executions) and
    to `rollback`.
    """

    mode: PolicyMode = PolicyMode.ACT
    pause: bool = False
    rollback: bool = False
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts at a stage failure (`error_class` set) or at an anomaly during a run (`error_class` None).

    `effects_made`: the execution has made external writes. `undoable`: these writes can be undone. `attended`: people
    review paused executions. `may_roll_back`: the engine may roll back on its own. `retry_odds`: P(another attempt
    succeeds), where known. `retry_on`: the error classes after which the stage is retried.
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
        """Whether an anomaly occurred and the assessed risk was high."""
        return self.anomaly and self.risk is RiskLevel.HIGH


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an action is admissible, and the reason."""

    action: Action
    admissible: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen action and the verdicts on all six. `propensity` is the probability of the policy choosing it."""

    situation: Situation
    action: Action
    reason: str
    verdicts: tuple[Verdict, ...]
    policy_version: str = POLICY_VERSION
    model_version: str | None = None
    propensity: float = 1.0

    @property
    def explanation(self) -> str:
        """One sentence on why this action was chosen and every preferred action was refused."""
        refused = [f"{v.action.value} ({v.reason})" for v in self.verdicts if not v.admissible]
        before = refused[: list(Action).index(self.action)]
        chosen = f"{self.action.value}: {self.reason}"
        return f"{chosen}; not {', '.join(before)}" if before else chosen

    def data(self) -> dict[str, Any]:
        """Return the decision as strict JSON values: one immutable row."""
        situation = {**asdict(self.situation), "retry_on": sorted(self.situation.retry_on)}
        return {
            **asdict(self),
            "situation": situation,
            "verdicts": [{**asdict(v), "chosen": v.action is self.action} for v in self.verdicts],
            "explanation": self.explanation,
        }


def decide(situation: Situation, model_version: str | None = None) -> Decision:
    """Choose the first admissible action; terminate is always admissible."""
    objections = {action: _RULES[action][0](situation) for action in Action}
    verdicts = tuple(Verdict(a, objection is None, objection or _RULES[a][1]) for a, objection in objections.items())
    chosen = next(verdict for verdict in verdicts if verdict.admissible)
    return Decision(situation, chosen.action, chosen.reason, verdicts, model_version=model_version)


def _against_continuing(s: Situation) -> str | None:
    if s.error_class is not None:
        return "the stage failed"
    return "an anomaly occurred at high risk" if s.alarming and s.attended else None


def _against_retrying(s: Situation) -> str | None:
    if s.error_class is None:
        return "nothing failed"
    if s.error_class not in s.retry_on:
        return f"retrying does not resolve {s.error_class.value} errors"
    if s.attempts_left <= 0:
        return "no attempts remain"
    if s.alarming:
        return "an anomaly occurred at high risk, and a retry would continue the same way"
    if s.retry_odds is not None and s.retry_odds < s.costs.min_odds:
        return f"a retry has only a {100 * s.retry_odds:.0f} % chance of success, which does not justify its cost"
    return None


def _against_skipping(s: Situation) -> str | None:
    if s.error_class is None:
        return "nothing failed"
    if s.error_class is ErrorClass.CANCELLED:
        return "a user stopped the execution"
    return "the stage is critical" if s.critical else None


def _against_pausing(s: Situation) -> str | None:
    if not s.attended:
        return "the policy does not allow pausing"
    if s.error_class is not None and s.error_class not in CURABLE:
        return f"waiting does not resolve {s.error_class.value} errors"
    return "partial writes would remain while risk is high" if _hazardous(s) else None


def _hazardous(s: Situation) -> bool:
    at_risk = s.error_class is not None and s.effects_made and s.risk is RiskLevel.HIGH
    return at_risk and s.undoable and s.may_roll_back


def _against_rollback(s: Situation) -> str | None:
    if s.error_class is ErrorClass.CANCELLED:
        return "the user who stopped the execution decides whether to roll it back"
    if not s.effects_made:
        return "no external writes were made"
    if not s.undoable:
        return "the external writes cannot be undone"
    return None if s.may_roll_back else "the policy does not allow rollback"


_RULES: dict[Action, tuple[Callable[[Situation], str | None], str]] = {
    Action.CONTINUE: (_against_continuing, "nothing failed"),
    Action.RETRY: (_against_retrying, "the error may be temporary and attempts remain"),
    Action.SKIP: (_against_skipping, "the stage is not critical"),
    Action.PAUSE: (_against_pausing, "a person can fix the cause, and completed work is kept"),
    Action.ROLLBACK: (_against_rollback, "the external writes can be undone"),
    Action.TERMINATE: (lambda _: None, "no other action is admissible"),
}
"""For each action, what speaks against it, and why it is chosen if nothing does."""


@dataclass(slots=True)
class RetryOdds(JsonState):
    """The retries of one pipeline, or of the installation, by the class of the preceding error."""

    classes: dict[str, DecayedRate] = field(default_factory=dict)

    def add(self, before: ErrorClass, *, succeeded: bool) -> None:
        """Count a finished retry; the attempt before it had failed with class `before`."""
        self.classes.setdefault(before.value, DecayedRate(RETRY_HALF_LIFE)).add(failed=not succeeded)

    def knows(self, error_class: ErrorClass) -> bool:
        """Return whether enough retries after such an error were seen to know the odds."""
        seen = self.classes.get(error_class.value)
        return seen is not None and seen.runs >= MIN_RETRIES

    def odds(self, error_class: ErrorClass, wider: RetryOdds | None = None) -> float:
        """Return P(a retry succeeds), shrunk toward the odds of `wider` (the installation), those toward ASSUMED."""
        towards = wider.odds(error_class) if wider is not None else ASSUMED.get(error_class, 0.02)
        seen = self.classes.get(error_class.value, DecayedRate(RETRY_HALF_LIFE))
        return 1.0 - seen.shrunk(1.0 - towards, RETRY_STRENGTH)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the state from `to_json` output."""
        return cls({name: DecayedRate(**rate) for name, rate in data["classes"].items()})
