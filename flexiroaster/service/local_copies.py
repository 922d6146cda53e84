"""Cleanup of local copies of remote artifacts, once this process no longer drives their execution."""

from __future__ import annotations

from collections.abc import Sequence

from flexiroaster.artifacts.store import Artifacts
from flexiroaster.coordination.outbox import Outbox
from flexiroaster.model.event import ENDS, Event, EventType
from flexiroaster.threads import Threads

__all__ = ["LocalCopies"]

_LEAVES = ENDS | {EventType.EXECUTION_RELEASED}
"""The events after which this process no longer drives an execution: it ended or was released."""

MOST_WAITING = 10_000


class LocalCopies:
    """Deletes local copies on its own thread, because large files take time. Copies needed again are fetched again."""

    def __init__(self, artifacts: Artifacts, threads: Threads | None = None) -> None:
        self._artifacts = artifacts
        self._outbox: Outbox[str] = Outbox(
            self._forget, name="flexiroaster-copies", limit=MOST_WAITING, threads=threads
        )

    def committed(self, events: Sequence[Event]) -> None:
        """Receive committed events of one execution; a listener for the driver."""
        if events[-1].type in _LEAVES:
            self._outbox.put(events[-1].execution_id)

    def close(self) -> None:
        """Delete the remaining copies and stop."""
        self._outbox.close()

    def _forget(self, execution_ids: Sequence[str]) -> bool:
        for execution_id in execution_ids:
            self._artifacts.forget(execution_id)
        return True
