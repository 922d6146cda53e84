"""Local copies of remote artifacts: they go when nobody here works on their execution any more."""

from __future__ import annotations

from collections.abc import Sequence

from flexiroaster.coordination.outbox import Outbox
from flexiroaster.engine.artifacts import Artifacts
from flexiroaster.model.event import ENDS, Event, EventType
from flexiroaster.threads import Threads

__all__ = ["LocalCopies"]

_LEAVES = ENDS | {EventType.EXECUTION_RELEASED}
"""An execution has ended, or another process goes on with it."""

MOST_WAITING = 10_000


class LocalCopies:
    """Deletes them on a thread of its own, since large files take their time. What is needed again is fetched again."""

    def __init__(self, artifacts: Artifacts, threads: Threads | None = None) -> None:
        self._artifacts = artifacts
        self._outbox: Outbox[str] = Outbox(
            self._forget, name="flexiroaster-copies", limit=MOST_WAITING, threads=threads
        )

    def committed(self, events: Sequence[Event]) -> None:
        """A listener for the driver: these events of one execution are durable."""
        if events[-1].type in _LEAVES:
            self._outbox.put(events[-1].execution_id)

    def close(self) -> None:
        """Delete what is left to be deleted."""
        self._outbox.close()

    def _forget(self, execution_ids: Sequence[str]) -> bool:
        for execution_id in execution_ids:
            self._artifacts.forget(execution_id)
        return True
