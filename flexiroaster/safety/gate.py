"""The risk gate: maps a failure probability to a risk level and a gate answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Gate", "RiskLevel", "Thresholds"]


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
