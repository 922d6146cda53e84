"""Live events of an execution, with no gap and no repeat: what is in the database first, then what comes.

A reader names the last event it saw and gets all after that. It holds nothing but that number: a reader that stalls
costs nobody anything, one that comes back goes on exactly where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

from flexiroaster.model.event import Event
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.installation import Installation
from flexiroaster.store import queries

__all__ = ["follow"]

PAGE = 500
"""Events read at a time."""

SHORTEST_POLL, LONGEST_POLL = 0.02, 0.25
"""Seconds between looks into the database where nobody tells of news."""


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
            yield event
        if events:
            pause = SHORTEST_POLL
        elif ended or (deadline is not None and monotonic() >= deadline):
            return
        else:
            news.wait(pause)
            pause = min(2 * pause, LONGEST_POLL)
