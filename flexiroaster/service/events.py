"""Live events of an execution, with no gap and no repeat: what is in the database first, then what comes.

A reader names the last event it saw and gets all after that. It holds nothing but that number: a reader that stalls
costs nobody anything, one that comes back goes on exactly where it was.
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
from flexiroaster.store import batches, event_list, queries
from flexiroaster.store.event_list import BY_NUMBER, EventFilter
from flexiroaster.store.keyset import Page, Window, cursor_of, position_of
from flexiroaster.store.rows import LARGE, ExecutionRow

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
"""Seconds between looks into the database where nobody tells of news."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events after number `after` that were read together, and their execution right after: no older than they are."""

    after: int
    events: tuple[Event, ...]
    execution: ExecutionRow

    @property
    def last(self) -> int:
        """The number behind which the next batch begins."""
        return self.events[-1].seq if self.events else self.after

    @property
    def ended(self) -> bool:
        """Whether nothing comes after it, because the execution has ended."""
        return self.execution.status in TERMINAL and self.execution.last_seq == self.last


def cursor(seq: int) -> str:
    """The place behind an event, as the pages of events name it: what comes after it, in a page or live."""
    return cursor_of(BY_NUMBER, seq)


def number(cursor: str) -> int:
    """The number of the event that a cursor stands for. Raises InputError."""
    seq: int = position_of(BY_NUMBER, cursor)[0]
    return seq


def page(
    installation: Installation, execution_id: str, wanted: EventFilter | None = None, window: Window | None = None
) -> Page[Event]:
    """A page of the events of an execution that match, in order; empty where there is no such execution.

    Raises InputError (cursor).
    """
    return event_list.page(installation.database, execution_id, wanted or EventFilter(), window or Window())


def count(installation: Installation, execution_id: str, wanted: EventFilter | None = None) -> int:
    """How many events of an execution match."""
    return event_list.count(installation.database, execution_id, wanted or EventFilter())


def first(
    installation: Installation,
    execution_ids: Collection[str],
    limit: int,
    *,
    after: int = 0,
    levels: Collection[Level] | None = None,
) -> dict[str, list[Event]]:
    """The first `limit` events of each execution after a number, in order; of some levels only, if given."""
    return batches.first_events(installation.database, execution_ids, limit, after=after, levels=levels)


def since(installation: Installation, execution_id: str, after: int = 0, limit: int = PAGE) -> Batch:
    """The events after a number, at most `limit`; the execution without what may be large (`variables`, `error`).

    Raises NotFoundError; InputError (cursor) where the execution has no event of that number; StoreError.
    """
    events = queries.events_of(installation.database, execution_id, after=after, limit=limit) if limit else []
    found = batches.executions_by_id(installation.database, [execution_id], LARGE).get(execution_id)
    if found is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    if not 0 <= after <= found.last_seq:
        raise InputError("the cursor is not one of this execution's events", argument="after")
    if events:
        installation.signals.seen(execution_id, events[-1].seq)
    return Batch(after, tuple(events), found)


def listen(installation: Installation, execution_id: str, wake: Callable[[], None]) -> Callable[[], None]:
    """Call `wake`, on any thread, when an execution may have new events; the result ends that. Raises StoreError."""
    return installation.signals.on_events(execution_id, wake)


def follow(
    installation: Installation, execution_id: str, after: int = 0, timeout: float | None = None
) -> Iterator[Event]:
    """The events after number `after`, in order, and those to come, until the execution has ended or `timeout` seconds.

    Raises NotFoundError, InputError (`after` is behind the last event), StoreError.
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
