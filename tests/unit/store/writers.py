"""Threads that write to one journal at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flexiroaster.store.journal.transitions import Applied, Change
from flexiroaster.store.journal.writer import Journal
from tests.waiting import eventually

__all__ = ["Writer", "gather"]


class Writer(threading.Thread):
    """One `apply`; a daemon, so that one that hangs fails its test and no more."""

    def __init__(self, journal: Journal, changes: Sequence[Change]) -> None:
        super().__init__(daemon=True)
        self._journal = journal
        self._changes = changes
        self._outcome: dict[str, Applied] | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._journal.apply(self._changes)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C is what some tests are about
            self._outcome = error

    def outcome(self) -> dict[str, Applied] | BaseException | None:
        """What landed, or what was raised."""
        self.join(60)
        assert not self.is_alive(), "the writer still waits"
        return self._outcome


def gather(journal: Journal, changes: Sequence[Change]) -> list[Writer]:
    """A writer for each change; all wait in the queue, in this order, before the first may write."""
    writers: list[Writer] = []
    with journal._writer_lock:
        for change in changes:
            writers.append(Writer(journal, [change]))
            eventually(lambda: len(journal._queue) == len(writers))
    return writers
