"""Leases: renews the leases of all executions that a process drives, and abandons executions whose lease is lost.

One statement renews all leases. A process that cannot renew kills its stages and abandons its executions before the
leases expire and other workers may claim them. A process that was frozen detects lost leases at the first renewal after
it resumes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from flexiroaster.engine.driver import Driver
from flexiroaster.errors import LeaseLostError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["LeaseKeeper"]

logger = logging.getLogger(__name__)

GIVE_UP = 0.8
"""Fraction of a lease after which a holder that could not renew it abandons its executions: 12 of 15 seconds."""


class LeaseKeeper:
    """Two threads: one renews every `interval` seconds, one checks that it does, because a database may hang.

    `renew` renews the leases of the given executions and returns those that this process still holds. It raises
    StoreError. `renewed` is then called with them.
    """

    def __init__(
        self,
        driver: Driver,
        renew: Callable[[set[str]], set[str]],
        renewed: Callable[[set[str]], None],
        *,
        ttl: float,
        interval: float,
        threads: Threads | None = None,
    ) -> None:
        self._driver = driver
        self._renew = renew
        self._renewed = renewed
        self._ttl = ttl
        self._interval = min(interval, ttl / 3)
        self._renewed_at = monotonic()
        self._closed = threading.Event()
        self._threads = [
            SupervisedThread(
                turn,
                name=name,
                closed=self._closed,
                threads=threads,
                purpose=purpose,
                expected=(StoreError,),
                essential=True,
                pause=0.0,  # each turn starts with a wait
            ).start()
            for turn, name, purpose in (
                (self._keep, "flexiroaster-leases", "cannot renew leases"),
                (self._watch, "flexiroaster-lease-watch", "cannot monitor leases"),
            )
        ]

    def close(self, timeout: float = 5.0) -> None:
        """End both threads."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout)

    def _keep(self) -> bool:
        """Wait one interval and renew once; return whether to continue."""
        if self._closed.wait(self._interval) or not self._driver.alive:
            return False
        failpoints.point("leases.before_renew")
        began = monotonic()
        driven = self._driver.driven  # before the statement: its result omits executions that are claimed meanwhile
        held = self._renew(driven)
        self._renewed_at = began
        lost = {i for i in driven - held if i in self._driver.driven}
        if lost:
            logger.warning("lost the leases of %d executions", len(lost))
            self._driver.abandon(lost, LeaseLostError("the lease has expired"))
        self._driver.look_for_commands()
        self._renewed(held)
        return True

    def _watch(self) -> bool:
        """Check once whether the leases are renewed in time; return whether to continue."""
        if self._closed.wait(self._interval / 5):
            return False
        driven = self._driver.driven
        if driven and monotonic() - self._renewed_at > GIVE_UP * self._ttl:
            logger.error("no lease could be renewed in time: abandoning %d executions", len(driven))
            self._driver.kill_and_abandon(driven, LeaseLostError("the lease could not be renewed in time"))
            self._renewed_at = monotonic()
        return True
