"""What can be abnormal while a run goes on, and how one finding is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Anomaly", "AnomalyKind"]


class AnomalyKind(StrEnum):
    """What is abnormal."""

    LATE = "late"
    VOLUME = "volume"
    ERROR_BURST = "error_burst"
    RETRIES = "retries"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding: what was seen, what is usual, and a sentence. `alert` is False while a cooldown lasts."""

    kind: AnomalyKind
    observed: float
    usual: float
    message: str
    alert: bool = True
