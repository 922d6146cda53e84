"""The counter of lost leases since this process started, over all processes of the installation."""

from __future__ import annotations

from datetime import datetime, timedelta

from flexiroaster.model.event import utc_now
from flexiroaster.store import take_overs
from flexiroaster.store.database import Database

__all__ = ["LeaseLosses"]

SKEW = timedelta(seconds=5)
"""Maximum clock skew between workers and this process."""


class LeaseLosses:
    """A monotonic counter of executions taken over from a worker whose lease had expired, read from events.

    Call `look` from one thread at a time. Each look reads the new events of executions that were claimed at least
    twice. It misses two cases: a worker that was lost before it wrote the takeover event, and a loss during a rollback
    of an execution that had ended earlier, if that rollback started and ended between two looks.
    """

    def __init__(self, begun: datetime) -> None:
        self.count = 0
        self._looked = begun
        self._seen: dict[str, int] = {}

    def look(self, database: Database) -> None:
        """Count the losses since the last look. Raises StoreError."""
        now, since = utc_now(), self._looked - SKEW
        found = take_overs.claimed_again(
            database, since - SKEW
        )  # a longer period, so that no execution already seen counts as new
        grown = {i: (self._seen[i], last) for i, last in found.items() if last > self._seen.get(i, last)}
        new = {i: (0, last) for i, last in found.items() if i not in self._seen}
        self.count += take_overs.count(database, grown) + take_overs.count(database, new, since)
        self._seen, self._looked = found, now
