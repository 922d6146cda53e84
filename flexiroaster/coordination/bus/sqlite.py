"""Between processes on one SQLite file: nobody sends anything, everybody sees that something was committed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep

from flexiroaster.coordination.bus.base import Envelope
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["SqliteChannel"]

POLL_SECONDS = 0.025
"""At this pace the watching takes some 0.7 % of a core."""

CALM_POLL_SECONDS = 1.0
"""While Redis brings the messages, and this only covers those who cannot reach it."""

OWN_SECONDS = 0.25
"""While this process writes itself, which looks the same, a gap comes at most so often."""


class SqliteChannel:
    """Asks `PRAGMA data_version`, some microseconds, on a connection of its own; each change is a gap.

    `calm` says whether messages come another way.
    """

    name = "sqlite"

    def __init__(self, path: str, calm: Callable[[], bool], threads: Threads | None = None) -> None:
        self._path = path
        self._calm = calm
        self._closed = threading.Event()
        self._thread = SupervisedThread(
            self._watch,
            name="flexiroaster-bus-sqlite",
            closed=self._closed,
            threads=threads,
            purpose="the bus cannot watch the database",
            expected=(sqlite3.Error,),
            pause=CALM_POLL_SECONDS,
        )
        self._gap: Callable[[], None] = lambda: None
        self._own_at = float("-inf")
        self._gap_at = float("-inf")

    def send(self, batch: Sequence[Envelope]) -> bool:  # noqa: ARG002 - the commit was the message
        """The others have seen the commit that this is about."""
        self._own_at = monotonic()
        return True

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:  # noqa: ARG002 - only gaps
        """Begin to watch."""
        self._gap = gap
        self._thread.start()

    def want(self, root: str) -> None:
        """Everything is seen anyway."""

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        self._thread.join(5)

    def _watch(self) -> bool:
        """Watch over one connection, until the end."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=1)
        try:
            seen: int | None = None
            while not self._closed.is_set():
                version = connection.execute("PRAGMA data_version").fetchone()[0]
                if version != seen and self._may_tell():
                    seen = version
                    self._gap_at = monotonic()
                    self._gap()
                    self._thread.works()
                if self._calm():
                    self._closed.wait(CALM_POLL_SECONDS)
                else:
                    sleep(POLL_SECONDS)  # costs two thirds of what waiting for an event does
        finally:
            connection.close()
        return False

    def _may_tell(self) -> bool:
        now = monotonic()
        return now - self._own_at > OWN_SECONDS or now - self._gap_at > OWN_SECONDS
