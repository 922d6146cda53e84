"""Live events of an execution, with no gap and no repeat: what is in the database first, then what comes.

A reader names the last event it saw and gets all after that. It holds nothing but that number: a reader that stalls
costs nobody anything, one that comes back goes on exactly where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from time import monotonic

from flexiroaster.model.event import Event, Level
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.installation import Installation
from flexiroaster.store import batches, event_list, queries
from flexiroaster.store.event_list import BY_NUMBER, EventFilter
from flexiroaster.store.keyset import Page, Window, cursor_of, position_of

__all__ = ["EventFilter", "count", "cursor", "first", "follow", "number", "page"]

PAGE = 500
"""Events read at a time."""

SHORTEST_POLL, LONGEST_POLL = 0.02, 0.25
"""Seconds between looks into the database where nobody tells of news."""


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


def follow(
    installation: Installation, execution_id: str, after: int = 0, timeout: float | None = None
) -> Iterator[Event]:
    """The events after number `after`, in order, and those to come, until the execution has ended or `timeout` seconds.

    Raises NotFoundError, StoreError.
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
        # the state is read before the events: whatever belongs to a final state is then among them
        ended = queries.execution(installation.database, execution_id).status in TERMINAL
        events = queries.events_of(installation.database, execution_id, after=after, limit=PAGE)
        for event in events:
            after = event.seq
            installation.signals.seen(execution_id, after)
            yield event
        if events:
            pause = SHORTEST_POLL
        elif ended or (deadline is not None and monotonic() >= deadline):
            return
        else:
            news.wait(pause)
            pause = min(2 * pause, LONGEST_POLL)
