"""Stage attempts, folded from the event log: the row of a stage holds only its last attempt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from flexiroaster.model.event import Event, EventType
from flexiroaster.service.installation import Installation
from flexiroaster.store import batches

__all__ = ["Attempt", "AttemptOutcome", "by_execution"]


class AttemptOutcome(StrEnum):
    """How an attempt ended, or that it is running."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a stage. `number` counts all attempts from 1; `attempt` is the stage's own count.

    The stage's own count restarts when the execution is retried, and skips interrupted attempts: those that were
    paused, handed over, or lost together with their worker. `retry_delay` is in seconds, and set only if a
    retry was scheduled.
    """

    stage_id: str
    number: int
    attempt: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: AttemptOutcome = AttemptOutcome.RUNNING
    error: dict[str, Any] | None = None
    retry_delay: float | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


_ENDS = {
    EventType.STAGE_COMPLETED: AttemptOutcome.COMPLETED,
    EventType.STAGE_RETRYING: AttemptOutcome.FAILED,
    EventType.STAGE_FAILED: AttemptOutcome.FAILED,
    EventType.STAGE_CANCELLED: AttemptOutcome.CANCELLED,
    EventType.STAGE_INTERRUPTED: AttemptOutcome.INTERRUPTED,
}


def by_execution(installation: Installation, execution_ids: Collection[str]) -> dict[str, dict[str, list[Attempt]]]:
    """Map execution id to stage id to attempts, oldest first. One SQL statement for all executions."""
    types = (EventType.STAGE_STARTED, *_ENDS)
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for event in batches.events_of_types(installation.database, execution_ids, types):
        found[event.execution_id].append(event)
    return {execution_id: fold(events) for execution_id, events in found.items()}


def fold(events: Iterable[Event]) -> dict[str, list[Attempt]]:
    """Fold the events of one execution into attempts by stage id."""
    stages: defaultdict[str, list[Attempt]] = defaultdict(list)
    for event in events:
        attempts = stages[event.stage_id or ""]
        if event.type is EventType.STAGE_STARTED:
            attempts.append(Attempt(event.stage_id or "", len(attempts) + 1, event.attempt or 1, event.at))
        elif event.type in _ENDS and attempts and attempts[-1].outcome is AttemptOutcome.RUNNING:
            attempts[-1] = _ended(attempts[-1], event)  # a stage that never ran can be cancelled too
    return {stage_id: attempts for stage_id, attempts in stages.items() if attempts}


def _ended(attempt: Attempt, event: Event) -> Attempt:
    data = event.data or {}
    failed = event.type in {EventType.STAGE_RETRYING, EventType.STAGE_FAILED}
    return replace(
        attempt,
        ended_at=event.at,
        outcome=_ENDS[event.type],
        error=data.get("error") if failed else None,
        retry_delay=data.get("delay") if event.type is EventType.STAGE_RETRYING else None,
    )
