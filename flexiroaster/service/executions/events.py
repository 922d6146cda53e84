"""Events of an execution, stored and live, without gaps or duplicates.

A reader passes the number of the last event it saw and gets all later events. That number is its only state: a stalled
reader costs nothing, and a reader that reconnects resumes exactly where it stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from time import monotonic

from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.model.event import Event, Level
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.installation import Installation
from flexiroaster.store import batches, queries
from flexiroaster.store import events as event_list
from flexiroaster.store.events import BY_NUMBER, EventFilter
from flexiroaster.store.rows import LARGE, ExecutionRow
from flexiroaster.store.sql import Page, Window, cursor_of, position_of

__all__ = [
    "Batch",
    "EventFilter",
    "count",
    "cursor",
    "first",
    "follow",
    "listen",
    "number",
    "page",
    "since",
]

PAGE = 500
"""Events read at a time."""

SHORTEST_POLL, LONGEST_POLL = 0.02, 0.25
"""Seconds between reads of the database while no notification arrives."""


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


def page(
    installation: Installation, execution_id: str, wanted: EventFilter | None = None, window: Window | None = None
) -> Page[Event]:
    """Read a page of the matching events of an execution, in order; empty if the execution does not exist.

    Raises InputError (cursor).
    """
    return event_list.page(installation.database, execution_id, wanted or EventFilter(), window or Window())


def count(installation: Installation, execution_id: str, wanted: EventFilter | None = None) -> int:
    """Count the matching events of an execution."""
    return event_list.count(installation.database, execution_id, wanted or EventFilter())


def first(
    installation: Installation,
    execution_ids: Collection[str],
    limit: int,
    *,
    after: int = 0,
    levels: Collection[Level] | None = None,
) -> dict[str, list[Event]]:
    """Read the first `limit` events of each execution after a number, in order; only of `levels`, if given."""
    return batches.first_events(installation.database, execution_ids, limit, after=after, levels=levels)


def since(installation: Installation, execution_id: str, after: int = 0, limit: int = PAGE) -> Batch:
    """Read at most `limit` events after a number, and the execution without its large columns `variables` and `error`.

    Raises NotFoundError; InputError (cursor) if the execution has no event with that number; StoreError.
    """
    events = queries.events_of(installation.database, execution_id, after=after, limit=limit) if limit else []
    found = batches.executions_by_id(installation.database, [execution_id], LARGE).get(execution_id)
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
    queries.execution(installation.database, execution_id)
    news = threading.Event()
    unsubscribe = installation.signals.on_events(execution_id, news.set)
    try:
        yield from _until_the_end(installation, execution_id, after, news, timeout)
    finally:
        unsubscribe()


def _until_the_end(
    installation: Installation, execution_id: str, after: int, news: threading.Event, timeout: float | None
) -> Iterator[Event]:
    deadline = None if timeout is None else monotonic() + timeout
    pause = SHORTEST_POLL
    while True:
        news.clear()
        batch = since(installation, execution_id, after)
        yield from batch.events
        after = batch.last
        if batch.ended:
            return
        if batch.events:
            pause = SHORTEST_POLL
        elif deadline is not None and monotonic() >= deadline:
            return
        else:
            news.wait(pause)
            pause = min(2 * pause, LONGEST_POLL)
