"""The journal: the only writer of execution state, with group commit.

A writer queues its changes and acquires the writer lock. The writer that gets the lock applies all queued changes in
one transaction; the others find their changes written when they get the lock. The journal has no thread of its own, so
a single writer pays for no hand-over.

A change leaves the queue only when its outcome is known, so a writer can be interrupted anywhere (Ctrl-C in a
notebook). It then withdraws its own changes. The next writer first looks up whether the remaining changes were written,
and continues with them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from flexiroaster.errors import StoreError
from flexiroaster.model import failpoints
from flexiroaster.store.database import Database, UnreachableError
from flexiroaster.store.journal.transitions import Applied, Change, NewExecution, Transition

__all__ = ["Journal"]


class Backend(Protocol):
    """The journal's interface to a database: apply changes in one transaction on a dedicated connection."""

    def apply(
        self, new: Sequence[NewExecution], transitions: Sequence[Transition], doubtful: Collection[str] = ()
    ) -> dict[str, Applied]:
        """Apply all changes in one transaction; return the results of those that landed, by execution.

        The changes of `doubtful` executions may have been written before; then they count as landed. Raises
        UnreachableError when the database does not answer, and StoreError when it rejects a change; then nothing is
        written. After any other exception the outcome is unknown. The next call works in every case.
        """

    def close(self) -> None:
        """Release the connection."""


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    landed: Applied | None = None
    error: StoreError | None = None
    done: bool = False
    alone: bool = False  # its group was rejected: it gets a transaction of its own
    doubtful: bool = False  # its writer was interrupted: it may have been written


class Journal:
    """Applies changes of execution state. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._backend = _backend(database)
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._writer_lock = threading.Lock()
        self.commits = 0
        """The number of committed transactions, for measurements."""

    def apply(self, changes: Sequence[Change]) -> dict[str, Applied]:
        """Write the changes and wait for the commit; return the results of those that landed, by execution.

        Each change lands independently of the others. Raises StoreError when one of them cannot be written.
        """
        landed, refused = self.apply_each(changes)
        for error in refused.values():
            raise error
        return landed

    def apply_each(self, changes: Sequence[Change]) -> tuple[dict[str, Applied], dict[str, StoreError]]:
        """Write the changes like `apply`, but return the results and the StoreErrors, each by execution.

        A change in neither mapping did not land.
        """
        mine = [_Waiting(change) for change in changes]
        try:
            with self._queue_lock:
                self._queue += mine
            with self._writer_lock, self._withdrawn_if_interrupted(mine):
                while not all(waiting.done for waiting in mine):
                    self._commit(self._next_group())
        except BaseException:
            self._withdraw(mine)
            raise
        landed = {w.change.execution_id: w.landed for w in mine if w.landed is not None}
        return landed, {w.change.execution_id: w.error for w in mine if w.error is not None}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause all writes, for another statement that locks several executions of this process, as the journal does.

        On PostgreSQL two statements that lock the same rows in different orders deadlock, and the server ends one of
        them.
        """
        with self._writer_lock:
            yield

    def close(self) -> None:
        """Release the connection once the current writer has finished."""
        with self._writer_lock:
            self._backend.close()

    def _next_group(self) -> list[_Waiting]:
        """Return the queued changes, up to the first that repeats an execution or needs its own transaction."""
        with self._queue_lock:
            group: list[_Waiting] = []
            seen: set[str] = set()
            for waiting in self._queue:
                if waiting.change.execution_id in seen or (waiting.alone and group):
                    break
                seen.add(waiting.change.execution_id)
                group.append(waiting)
                if waiting.alone:
                    break
            return group

    def _commit(self, group: list[_Waiting]) -> None:
        doubtful = {w for w in group if w.doubtful}
        for waiting in group:
            waiting.doubtful = True
        try:
            failpoints.point("journal.before_commit")
            new = [w.change for w in group if isinstance(w.change, NewExecution)]
            transitions = [w.change for w in group if isinstance(w.change, Transition)]
            landed = self._backend.apply(new, transitions, {w.change.execution_id for w in doubtful})
            failpoints.point("journal.after_commit")
        except UnreachableError as error:  # fail all: each of them would wait for the database in turn
            with self._queue_lock:
                _fail(self._queue, error)
        except Exception as error:  # noqa: BLE001 - such as a value that cannot be encoded, or too large an integer
            if isinstance(error, StoreError):  # nothing was written
                for waiting in group:
                    waiting.doubtful = waiting in doubtful
            if len(group) == 1:
                _fail(group, error)
            for waiting in group:  # one bad change must not fail the others
                waiting.alone = True
        else:
            self.commits += 1
            for waiting in group:
                waiting.landed = landed.get(waiting.change.execution_id)
                waiting.done = True
        with self._queue_lock:
            self._queue = [waiting for waiting in self._queue if not waiting.done]

    @contextmanager
    def _withdrawn_if_interrupted(self, mine: list[_Waiting]) -> Iterator[None]:
        """Withdraw the changes of an interrupted writer before it releases the writer's lock.

        The next writer would commit them otherwise, after the interrupted call has raised: its caller reads the
        execution, finds nothing written, tries again and loses against its own former change.
        """
        try:
            yield
        except BaseException:
            self._withdraw(mine)
            raise

    def _withdraw(self, mine: list[_Waiting]) -> None:
        with self._queue_lock:
            self._queue = [waiting for waiting in self._queue if waiting not in mine]


def _fail(waiters: Sequence[_Waiting], error: Exception) -> None:
    """Give each waiter its own error object, since each raises it in its own thread."""
    for waiting in waiters:
        known = isinstance(error, StoreError)
        message = str(error) if known else f"cannot write a state change: {type(error).__name__}: {error}"
        waiting.error = StoreError(message)
        waiting.error.__cause__ = error
        waiting.done = True


def _backend(database: Database) -> Backend:
    """Open the journal's connection. Only an installation on PostgreSQL loads its driver."""
    if database.is_sqlite:
        from flexiroaster.store.journal.sqlite import SqliteBackend

        return SqliteBackend(database.engine)
    from flexiroaster.store.journal.postgres import PostgresBackend

    return PostgresBackend(database.engine)
