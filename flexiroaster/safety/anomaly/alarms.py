"""Anomalies that can occur during a run: their kinds and the record of one anomaly."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Anomaly", "AnomalyKind"]


class AnomalyKind(StrEnum):
    """The kind of an anomaly."""

    LATE = "late"
    VOLUME = "volume"
    ERROR_BURST = "error_burst"
    RETRIES = "retries"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One anomaly: the observed and the usual value, and a message. `alert` is False during a cooldown."""

    kind: AnomalyKind
    observed: float
    usual: float
    message: str
    alert: bool = True
