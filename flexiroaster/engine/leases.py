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
    ) -> None:
        self._driver = driver
        self._renew = renew
        self._renewed = renewed
        self._ttl = ttl
        self._interval = min(interval, ttl / 3)
        self._renewed_at = monotonic()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, name="flexiroaster-leases", daemon=True),
            threading.Thread(target=self._watch, name="flexiroaster-lease-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """End both threads."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout)

    def _keep(self) -> None:
        while not self._closed.wait(self._interval) and self._driver.alive:
            self._renew_once()

    def _renew_once(self) -> None:
        faults.point("leases.before_renew")
        began = monotonic()
        driven = self._driver.driven  # before the statement: what is claimed meanwhile is not in its answer
        try:
            held = self._renew(driven)
        except StoreError as error:
            logger.warning("cannot renew leases: %s", error)
            return
        self._renewed_at = began
        lost = {i for i in driven - held if i in self._driver.driven}
        if lost:
            logger.warning("lost the leases of %d executions", len(lost))
            self._driver.lose(lost, LeaseLostError("the lease has run out"))
        self._driver.look_for_commands()
        self._renewed(held)

    def _watch(self) -> None:
        while not self._closed.wait(self._interval / 5):
            driven = self._driver.driven
            if driven and monotonic() - self._renewed_at > GIVE_UP * self._ttl:
                logger.error("no lease could be renewed in time: %d executions are given up", len(driven))
                self._driver.lose_now(driven, LeaseLostError("the lease could not be renewed in time"))
                self._renewed_at = monotonic()
