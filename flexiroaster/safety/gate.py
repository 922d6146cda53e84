"""The gate before a run: how high the risk is called, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Gate", "RiskLevel", "Thresholds"]


class RiskLevel(StrEnum):
    """How high a risk is called."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Gate(StrEnum):
    """What the gate answers before a run."""

    ALLOW = "allow"
    WARN = "warn"
    APPROVE = "require_approval"  # it starts paused, and a person resumes it
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities from which a risk is medium and high, and what happens at high risk (below it: a warning).

    Without `block_unknown` a pipeline that has never run to an end is not blocked: the probability is that of others,
    and blocked it would never get a history of its own.
    """

    medium: float = 0.4
    high: float = 0.7
    at_high: Gate = Gate.WARN
    block_unknown: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.medium <= self.high <= 1:
            raise ValueError(f"thresholds must be 0 <= medium <= high <= 1, not {self.medium} and {self.high}")

    def level(self, probability: float) -> RiskLevel:
        """How high this probability of failure is called."""
        if probability >= self.high:
            return RiskLevel.HIGH
        return RiskLevel.MEDIUM if probability >= self.medium else RiskLevel.LOW

    def gate(self, probability: float, *, has_run: bool = True) -> Gate:
        """What the gate answers at this probability of failure; `has_run`, whether the pipeline ever ran to an end."""
        spared = self.at_high is Gate.BLOCK and not has_run and not self.block_unknown
        at_high = Gate.WARN if spared else self.at_high
        answers = {RiskLevel.LOW: Gate.ALLOW, RiskLevel.MEDIUM: Gate.WARN, RiskLevel.HIGH: at_high}
        return answers[self.level(probability)]
