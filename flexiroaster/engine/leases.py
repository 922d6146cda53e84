"""Keeps the leases of all executions that a process drives, and lets go of those it has lost.

One statement renews them all. Whoever cannot renew stops by itself before anybody else may claim: its stages are
killed and its executions forgotten. A process that was frozen finds that out with the first renewal after it thaws.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from flexiroaster import faults
from flexiroaster.engine.driver import Driver
from flexiroaster.errors import LeaseLostError, StoreError
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["LeaseKeeper"]

logger = logging.getLogger(__name__)

GIVE_UP = 0.8
"""The part of a lease after which its holder stops by itself when it could not be renewed: 12 of 15 seconds."""


class LeaseKeeper:
    """Two threads: one renews every `interval` seconds, one watches that it does (a database may not answer).

    `renew` renews the leases of these executions and gives those that this process holds; it raises StoreError.
    `renewed` is called with these afterwards.
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
                pause=0.0,  # each turn begins with a wait
            ).start()
            for turn, name, purpose in (
                (self._keep, "flexiroaster-leases", "cannot renew leases"),
                (self._watch, "flexiroaster-lease-watch", "cannot watch the leases"),
            )
        ]

    def close(self, timeout: float = 5.0) -> None:
        """End both threads."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout)

    def _keep(self) -> bool:
        """Renew once, an interval later; whether to go on."""
        if self._closed.wait(self._interval) or not self._driver.alive:
            return False
        faults.point("leases.before_renew")
        began = monotonic()
        driven = self._driver.driven  # before the statement: what is claimed meanwhile is not in its answer
        held = self._renew(driven)
        self._renewed_at = began
        lost = {i for i in driven - held if i in self._driver.driven}
        if lost:
            logger.warning("lost the leases of %d executions", len(lost))
            self._driver.lose(lost, LeaseLostError("the lease has run out"))
        self._driver.look_for_commands()
        self._renewed(held)
        return True

    def _watch(self) -> bool:
        """Look once whether the leases are renewed in time; whether to go on."""
        if self._closed.wait(self._interval / 5):
            return False
        driven = self._driver.driven
        if driven and monotonic() - self._renewed_at > GIVE_UP * self._ttl:
            logger.error("no lease could be renewed in time: %d executions are given up", len(driven))
            self._driver.lose_now(driven, LeaseLostError("the lease could not be renewed in time"))
            self._renewed_at = monotonic()
        return True
