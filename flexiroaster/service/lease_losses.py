"""How many leases were lost since a process began to count, whichever processes lost them."""

from __future__ import annotations

from datetime import datetime, timedelta

from flexiroaster.model.event import utc_now
from flexiroaster.store import take_overs
from flexiroaster.store.database import Database

__all__ = ["LeaseLosses"]

SKEW = timedelta(seconds=5)
"""By so much the clocks of workers may differ from ours."""


class LeaseLosses:
    """A count that only grows: executions taken over from a worker whose lease had run out, from the events that tell
    it. `look` belongs to one thread at a time.

    Each look reads the events that are new of executions that were claimed twice or more. Two things are not seen: a
    worker that was lost before it wrote that it had taken the execution over, and a loss in a rollback, of what had
    ended earlier, that was over between two looks.
    """

    def __init__(self, begun: datetime) -> None:
        self.count = 0
        self._looked = begun
        self._seen: dict[str, int] = {}

    def look(self, database: Database) -> None:
        """Count what is new. Raises StoreError."""
        now, since = utc_now(), self._looked - SKEW
        found = take_overs.claimed_again(
            database, since - SKEW
        )  # longer ago, so that none is new that was seen already
        grown = {i: (self._seen[i], last) for i, last in found.items() if last > self._seen.get(i, last)}
        new = {i: (0, last) for i, last in found.items() if i not in self._seen}
        self.count += take_overs.count(database, grown) + take_overs.count(database, new, since)
        self._seen, self._looked = found, now
