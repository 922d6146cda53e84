"""The journal: the only writer of execution state.

Whoever has something to write puts it into the queue and asks for the writer's lock; the one that gets it applies
all that waits in one transaction (group commit) and the others, when their turn comes, find their work done. No
thread of its own, and a single writer pays no hand-over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from flexiroaster import faults
from flexiroaster.errors import StoreError
from flexiroaster.store.changes import Landed, NewExecution, Transition
from flexiroaster.store.database import Database

__all__ = ["Journal"]

Change = NewExecution | Transition


@dataclass(slots=True)
class _Waiting:
    changes: Sequence[Change]
    landed: dict[str, Landed] | None = None
    error: StoreError | None = None

    @property
    def done(self) -> bool:
        return self.landed is not None or self.error is not None


class Journal:
    """Applies transitions. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._backend = database.backend()
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._writer_lock = threading.Lock()
        self.commits = 0
        """How many transactions were committed, for measuring."""

    def apply(self, changes: Sequence[Change]) -> dict[str, Landed]:
        """Write the changes and wait for the commit; what landed, by execution.

        Each change lands or not by itself. Raises StoreError when the database cannot be written.
        """
        waiting = _Waiting(changes)
        with self._queue_lock:
            self._queue.append(waiting)
        with self._writer_lock:
            while not waiting.done:
                self._commit(self._take())
        if waiting.error is not None:
            raise waiting.error
        return waiting.landed or {}

    def close(self) -> None:
        """Give the connection back; whoever is writing finishes first."""
        with self._writer_lock:
            self._backend.close()

    def _take(self) -> list[_Waiting]:
        """All that waits, up to the first that touches an execution a second time."""
        with self._queue_lock:
            taken: list[_Waiting] = []
            seen: set[str] = set()
            for waiting in self._queue:
                ids = {change.execution_id for change in waiting.changes}
                if seen & ids:
                    break
                seen |= ids
                taken.append(waiting)
            del self._queue[: len(taken)]
            return taken

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            faults.point("journal.before_commit")
            landed = self._backend.apply(*_split(group))
            faults.point("journal.after_commit")
        except StoreError as error:
            if len(group) == 1:
                group[0].error = error
                return
            for waiting in group:  # one bad change must not fail its neighbours
                self._commit([waiting])
            return
        self.commits += 1
        for waiting in group:
            ids = [change.execution_id for change in waiting.changes]
            waiting.landed = {execution_id: landed[execution_id] for execution_id in ids if execution_id in landed}


def _split(group: list[_Waiting]) -> tuple[list[NewExecution], list[Transition]]:
    new: list[NewExecution] = []
    transitions: list[Transition] = []
    for waiting in group:
        for change in waiting.changes:
            if isinstance(change, NewExecution):
                new.append(change)
            else:
                transitions.append(change)
    return new, transitions
