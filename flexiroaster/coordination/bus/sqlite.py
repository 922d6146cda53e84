"""The bus transport over one SQLite file: processes send nothing, and poll the file for commits of others."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep

from flexiroaster.coordination.bus.base import Envelope
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["SqliteChannel"]

POLL_SECONDS = 0.025
"""Polling at this interval takes about 0.7 % of a core."""

CALM_POLL_SECONDS = 1.0
"""Interval while Redis delivers the messages, and polling only covers processes that cannot reach it."""

OWN_SECONDS = 0.25
"""Minimum interval between two gaps while this process writes, since its own commits look like those of others."""


class SqliteChannel:
    """Polls `PRAGMA data_version` (a few microseconds) on a dedicated connection; each change is a gap.

    `calm` tells whether messages arrive over another channel.
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

    def send(self, batch: Sequence[Envelope]) -> bool:  # noqa: ARG002 - the commit is the message
        """Send nothing: the other processes see the commit."""
        self._own_at = monotonic()
        return True

    def start(self, receive: Callable[[bytes], None], gap: Callable[[], None]) -> None:  # noqa: ARG002 - only gaps
        """Start to poll."""
        self._gap = gap
        self._thread.start()

    def want(self, root: str) -> None:
        """Do nothing: a gap concerns all topics."""

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        self._thread.join(5)

    def _watch(self) -> bool:
        """Poll over one connection until the channel is closed."""
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
                    sleep(POLL_SECONDS)  # costs two thirds of a wait for an event
        finally:
            connection.close()
        return False

    def _may_tell(self) -> bool:
        now = monotonic()
        return now - self._own_at > OWN_SECONDS or now - self._gap_at > OWN_SECONDS
