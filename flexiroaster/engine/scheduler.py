"""Finds work: claims what nobody drives and hands it to the driver.

There is one way back to life, however an execution lost its driver (a crash, a freeze, a hand-over, a command for one
that is paused): it is claimable, and the ordinary claim takes it up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from flexiroaster import faults
from flexiroaster.engine.driver import Driver
from flexiroaster.engine.restore import restore
from flexiroaster.errors import FlexiRoasterError, StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.safety.watch import Watch
from flexiroaster.store.claims import SUSPECT, Claim
from flexiroaster.store.recovery import Stored

__all__ = ["Scheduler", "adopt"]

logger = logging.getLogger(__name__)

MAX_CLAIMS = 3
"""An execution whose driver went away so often without any progress between is failed for good."""


class Scheduler:
    """A thread that claims up to `capacity` executions at a time, when it is woken and every `poll` seconds.

    `claim` claims at most so many executions, suspects or others; `load` reads one back, `watch` is who watches it.
    They raise StoreError.

    Executions that have lost their drivers again and again are suspects: one of them may be what takes the workers
    down, and the others stood beside it. They are driven one at a time, until they make progress, so that each of them
    is judged by itself.
    """

    def __init__(
        self,
        driver: Driver,
        claim: Callable[[int, bool], Sequence[Claim]],
        load: Callable[[str], Stored],
        watch: Callable[[Stored], Watch | None] = lambda _: None,
        *,
        capacity: int,
        poll: float = 1.0,
    ) -> None:
        self._driver = driver
        self._claim = claim
        self._load = load
        self._watch = watch
        self._capacity = capacity
        self._poll = poll
        self._woken = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="flexiroaster-scheduler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be work."""
        self._woken.set()

    def close(self, timeout: float = 5.0) -> None:
        """Claim nothing more."""
        self._closed = True
        self._woken.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closed and self._driver.alive:
            try:
                more = self._take()
            except StoreError as error:
                logger.warning("cannot claim executions: %s", error)
                more = False
            if not more:
                self._woken.wait(self._poll)
            self._woken.clear()

    def _take(self) -> bool:
        """Claim what there is room for; whether there may be more."""
        room = self._capacity - len(self._driver.driven)
        if room <= 0:
            return False
        claims = list(self._claim(room, False))
        if len(claims) < room and self._driver.suspects == 0:
            claims += self._claim(1, True)
        for claim in claims:
            self._adopt(claim)
        return len(claims) == room

    def _adopt(self, claim: Claim) -> None:
        try:
            adopt(self._driver, claim, self._load, self._watch)
        except StoreError:
            raise
        except (FlexiRoasterError, ValueError) as error:  # its definition cannot be read; the lease runs out again
            logger.error("cannot go on with execution %s: %s", claim.execution_id, error)  # noqa: TRY400 - it says why


def adopt(
    driver: Driver,
    claim: Claim,
    load: Callable[[str], Stored],
    watch: Callable[[Stored], Watch | None] = lambda _: None,
) -> None:
    """Go on with an execution that was claimed for this driver. Raises StoreError, and what reading it back raises."""
    faults.point("scheduler.after_claim")
    stored = load(claim.execution_id)
    at = utc_now()
    execution = restore(stored, claim.token, at, watch(stored), lost_by=claim.lost_by)
    execution.suspect = claim.claims > SUSPECT
    faults.point("scheduler.after_restore")
    if claim.claims > MAX_CLAIMS and not execution.ended:
        execution.set_aside(f"its worker went away {MAX_CLAIMS} times without any progress", at)
    driver.submit(execution, stored.commands, waits=stored.queued)
