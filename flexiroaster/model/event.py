"""Events: the history of an execution, numbered from 1 without gaps.

Logs, live views and subscriptions all read this one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

__all__ = ["ENDS", "Event", "EventType", "Level", "utc_now"]


class EventType(StrEnum):
    """Event types; the part before the dot is the subject."""

    EXECUTION_CREATED = "execution.created"
    RISK_ASSESSED = "risk.assessed"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_CLAIMED = "execution.claimed"
    EXECUTION_RELEASED = "execution.released"
    EXECUTION_STOPPING = "execution.stopping"
    EXECUTION_PAUSED = "execution.paused"
    EXECUTION_RESUMED = "execution.resumed"
    EXECUTION_RETRIED = "execution.retried"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLED = "execution.cancelled"
    COMMAND_REFUSED = "command.refused"
    ROLLBACK_STARTED = "rollback.started"
    ROLLBACK_COMPLETED = "rollback.completed"
    ROLLBACK_FAILED = "rollback.failed"
    STAGE_STARTED = "stage.started"
    STAGE_COMPLETED = "stage.completed"
    STAGE_RETRYING = "stage.retrying"
    STAGE_FAILED = "stage.failed"
    STAGE_SKIPPED = "stage.skipped"
    STAGE_CANCELLED = "stage.cancelled"
    STAGE_INTERRUPTED = "stage.interrupted"
    STAGE_UNDOING = "stage.undoing"
    STAGE_UNDONE = "stage.undone"
    STAGE_UNDO_FAILED = "stage.undo_failed"
    STAGE_ANOMALY = "stage.anomaly"
    STAGE_LOG = "stage.log"
    STAGE_PROGRESS = "stage.progress"


ENDS = frozenset(
    {
        EventType.EXECUTION_COMPLETED,
        EventType.EXECUTION_FAILED,
        EventType.EXECUTION_CANCELLED,
        EventType.ROLLBACK_COMPLETED,
        EventType.ROLLBACK_FAILED,
    }
)
"""The events that end an execution; a later command can start it again."""


class Level(StrEnum):
    """Log levels."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    def at_least(self, other: Level) -> bool:
        """Whether this level is as severe as `other` or more severe."""
        order = tuple(Level)
        return order.index(self) >= order.index(other)


def utc_now() -> datetime:
    """The current time in UTC, timezone-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. The driver of the execution assigns `seq`, from 1 without gaps.

    `data` is JSON. `message` is one line for people; a traceback goes into `data["traceback"]`.
    """

    execution_id: str
    seq: int
    type: EventType
    message: str
    at: datetime = field(default_factory=utc_now)
    level: Level = Level.INFO
    stage_id: str | None = None
    attempt: int | None = None
    data: dict[str, Any] | None = None
