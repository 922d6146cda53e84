"""Events of an execution, stored and live, without gaps or duplicates; attempts and list changes derived from them.

A reader passes the number of the last event it saw and gets all later events. That number is its only state: a stalled
reader costs nothing, and a reader that reconnects resumes exactly where it stopped.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Any

from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.model.event import Event, EventType
from flexiroaster.model.execution import LIVE, TERMINAL, ExecutionStatus
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow
from flexiroaster.service.installation import Installation, from_store
from flexiroaster.store import events as event_list
from flexiroaster.store import executions
from flexiroaster.store.events import BY_NUMBER, EventFilter
from flexiroaster.store.executions import LARGE
from flexiroaster.store.sql import cursor_of, position_of

__all__ = [
    "Attempt",
    "AttemptOutcome",
    "Batch",
    "EventFilter",
    "by_execution",
    "change_cursor",
    "change_position",
    "changes_among",
    "changes_since",
    "count",
    "cursor",
    "follow",
    "listen",
    "listen_to_changes",
    "number",
    "page",
    "since",
]


PAGE = 500
"""Events read at a time."""

MIN_POLL, MAX_POLL = 0.02, 0.25
"""Seconds between reads of the database while no notification arrives."""

MARGIN = timedelta(seconds=10)
"""Allowance for the clock skew between two processes and for the time a commit takes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The events after number `after` from one read, and the execution, read after them and so at least as recent."""

    after: int
    events: tuple[Event, ...]
    execution: ExecutionRow

    @property
    def last(self) -> int:
        """The number of the last event; the next batch begins after it."""
        return self.events[-1].seq if self.events else self.after

    @property
    def ended(self) -> bool:
        """Whether this is the final batch, because the execution has ended."""
        return self.execution.status in TERMINAL and self.execution.last_seq == self.last


def cursor(seq: int) -> str:
    """Encode the position after an event as a cursor, for pages of events and for live events."""
    return cursor_of(BY_NUMBER, seq)


def number(cursor: str) -> int:
    """Decode the number of the event from a cursor. Raises InputError."""
    seq: int = position_of(BY_NUMBER, cursor)[0]
    return seq


page = from_store(event_list.page)
count = from_store(event_list.count)


def since(installation: Installation, execution_id: str, after: int = 0, limit: int = PAGE) -> Batch:
    """Read at most `limit` events after a number, and the execution without its large columns `variables` and `error`.

    Raises NotFoundError; InputError (cursor) if the execution has no event with that number; StoreError.
    """
    events = event_list.events_of(installation.database, execution_id, after=after, limit=limit) if limit else []
    found = executions.executions_by_id(installation.database, [execution_id], LARGE).get(execution_id)
    if found is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    if not 0 <= after <= found.last_seq:
        raise InputError("the cursor does not belong to an event of this execution", argument="after")
    if events:
        installation.signals.seen(execution_id, events[-1].seq)
    return Batch(after, tuple(events), found)


def listen(installation: Installation, execution_id: str, wake: Callable[[], None]) -> Callable[[], None]:
    """Call `wake`, on any thread, when an execution may have new events.

    Returns a function that unsubscribes. Raises StoreError.
    """
    return installation.signals.on_events(execution_id, wake)


def follow(
    installation: Installation, execution_id: str, after: int = 0, timeout: float | None = None
) -> Iterator[Event]:
    """Yield stored and live events after number `after`, in order, until the execution ends or `timeout` seconds pass.

    Raises NotFoundError, InputError (`after` is greater than the number of the last event), StoreError.
    """
    executions.execution(installation.database, execution_id)
    news = threading.Event()
    unsubscribe = installation.signals.on_events(execution_id, news.set)
    try:
        yield from _follow(installation, execution_id, after, news, timeout)
    finally:
        unsubscribe()


def _follow(
    installation: Installation, execution_id: str, after: int, news: threading.Event, timeout: float | None
) -> Iterator[Event]:
    deadline = None if timeout is None else monotonic() + timeout
    pause = MIN_POLL
    while True:
        news.clear()
        batch = since(installation, execution_id, after)
        yield from batch.events
        after = batch.last
        if batch.ended:
            return
        if batch.events:
            pause = MIN_POLL
        elif deadline is not None and monotonic() >= deadline:
            return
        else:
            news.wait(pause)
            pause = min(2 * pause, MAX_POLL)


# --- attempts of stages: the row of a stage holds only its last attempt ----------------------------------------------


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
    for event in event_list.events_of_types(installation.database, execution_ids, types):
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


# --- changes in the list of executions -------------------------------------------------------------------------------


def changes_since(
    installation: Installation, wanted: ExecutionFilter, at: datetime | None = None
) -> list[ExecutionRow]:
    """List the matching executions that are live, followed by those that ended since `at` minus `MARGIN`.

    The cost depends only on these executions, not on how many ended before. The large columns `variables` and `error`
    are not read.
    """
    database = installation.database
    found = executions.in_statuses(database, wanted, live, LARGE) if (live := _of(wanted, LIVE)) else []
    if at is not None and (ended := _of(wanted, TERMINAL)):
        found += executions.ended_since(database, replace(wanted, statuses=ended), at - MARGIN, LARGE)
    return found


def changes_among(installation: Installation, wanted: ExecutionFilter, ids: Collection[str]) -> list[ExecutionRow]:
    """Read the current state of those executions that match."""
    return executions.among(installation.database, wanted, ids, LARGE)


def listen_to_changes(installation: Installation, check: Callable[[str | None], None]) -> Callable[[], None]:
    """Call `check`, on any thread, with the id of an execution that may have a new state; None means any execution.

    Returns a function that unsubscribes. Raises StoreError.
    """
    return installation.signals.on_any_events(check)


def change_cursor(at: datetime) -> str:
    """Encode a time as an opaque cursor from which changes can resume."""
    return base64.urlsafe_b64encode(at.astimezone(UTC).isoformat().encode()).rstrip(b"=").decode()


def change_position(cursor: str) -> datetime:
    """Decode the time of a cursor. Raises InputError."""
    try:
        at = datetime.fromisoformat(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise InputError("the cursor is invalid: pass one that this API returned", argument="after") from error
    if at.tzinfo is None or at.year < 2000:
        raise InputError("the cursor is invalid: pass one that this API returned", argument="after")
    return at


def _of(wanted: ExecutionFilter, statuses: Collection[ExecutionStatus]) -> tuple[ExecutionStatus, ...]:
    """The given statuses that the filter also allows."""
    allowed = statuses if wanted.statuses is None else wanted.statuses
    return tuple(status for status in ExecutionStatus if status in statuses and status in allowed)
