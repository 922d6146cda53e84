"""Finds work: claims what nobody drives and hands it to the driver.

There is one way back to life, however an execution lost its driver (a crash, a freeze, a hand-over, a command for one
that is paused): it is claimable, and the ordinary claim takes it up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from flexiroaster import faults
from flexiroaster.engine.driver import Driver
from flexiroaster.engine.executor import Execution
from flexiroaster.engine.restore import restore
from flexiroaster.errors import FlexiRoasterError, NotAllowedError, NotFoundError, StoreError
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import Goal, StageStatus
from flexiroaster.operators.registry import operator_of
from flexiroaster.safety.watch import Watch
from flexiroaster.store.claims import SUSPECT, Claim
from flexiroaster.store.recovery import Stored
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["Scheduler", "adopt"]

logger = logging.getLogger(__name__)

MAX_CLAIMS = 3
"""An execution whose driver went away so often without any progress between is failed for good."""

_AWAY = (StoreError, SQLAlchemyError, OSError, MemoryError)
"""What says nothing about the execution that was being read."""


class Scheduler:
    """A thread that claims up to `capacity` executions at a time, when it is woken and every `poll` seconds.

    `claim` claims at most so many executions, suspects or others; `load` reads one back, `watch` is who watches it,
    `outline` reads what can be read of one that cannot be loaded. `give_back` undoes claims, of which one may have
    failed. They raise StoreError.

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
        outline: Callable[[str], Stored] | None = None,
        give_back: Callable[[Sequence[Claim], str | None], None] = lambda _given, _failed: None,
        *,
        capacity: int,
        poll: float = 1.0,
        threads: Threads | None = None,
    ) -> None:
        self._driver = driver
        self._claim = claim
        self._load = load
        self._watch = watch
        self._outline = outline
        self._give_back = give_back
        self._unused: deque[Claim] = deque()  # claimed, and not adopted yet
        self._failed: str | None = None  # the one among them that could not be read
        self._capacity = capacity
        self._poll = poll
        self._woken = threading.Event()
        self._closed = threading.Event()
        self._thread = SupervisedThread(
            self._turn,
            name="flexiroaster-scheduler",
            closed=self._closed,
            threads=threads,
            purpose="cannot claim executions",
            expected=(StoreError,),
            essential=True,
            pause=poll,
        ).start()

    def wake(self) -> None:
        """There may be work."""
        self._woken.set()

    def close(self, timeout: float = 5.0) -> None:
        """Claim nothing more."""
        self._closed.set()
        self._woken.set()
        self._thread.join(timeout)

    def _turn(self) -> bool:
        """Claim, then wait if there is no more; whether to go on."""
        if self._closed.is_set() or not self._driver.alive:
            return False
        if not self._take():
            self._woken.wait(self._poll)
        self._woken.clear()
        return True

    def _take(self) -> bool:
        """Claim what there is room for; whether there may be more. Raises StoreError."""
        self._give_back_unused()
        room = self._capacity - len(self._driver.driven)
        if room <= 0:
            return False
        claims = list(self._claim(room, False))
        self._unused.extend(claims)
        try:
            if len(claims) < room and self._driver.suspects == 0:
                self._unused.extend(self._claim(1, True))
            while self._unused:
                self._failed = self._unused[0].execution_id
                self._adopt(self._unused[0])
                self._unused.popleft()
                self._failed = None
        except Exception:  # not the fault of those that come after
            with suppress(StoreError):  # then before the next claim
                self._give_back_unused()
            raise
        return len(claims) == room

    def _give_back_unused(self) -> None:
        """Claims that were not adopted do not count: others may take them at once."""
        if self._unused:
            self._give_back(tuple(self._unused), self._failed)
            self._unused.clear()
            self._failed = None

    def _adopt(self, claim: Claim) -> None:
        try:
            adopt(self._driver, claim, self._load, self._watch, self._outline)
        except StoreError:
            raise
        except FlexiRoasterError as error:  # the lease runs out, so that another worker may try
            logger.error("cannot go on with execution %s: %s", claim.execution_id, error)  # noqa: TRY400 - it says why


def adopt(
    driver: Driver,
    claim: Claim,
    load: Callable[[str], Stored],
    watch: Callable[[Stored], Watch | None] = lambda _: None,
    outline: Callable[[str], Stored] | None = None,
) -> None:
    """Go on with an execution that was claimed for this driver.

    What is stored of it may be unreadable, or its stages may need operators that this worker does not have: that may
    be different with another worker, of another release or with other packages, so the lease is left to run out and
    others may claim it. The claim number `MAX_CLAIMS` decides: what cannot be read then fails for good, by its
    `outline`, which also frees its slot, and a stage whose operator is missing runs and fails.

    Raises StoreError, and NotFoundError, DefinitionError or NotAllowedError for an execution that is left to others.
    """
    faults.point("scheduler.after_claim")
    at, last = utc_now(), claim.claims >= MAX_CLAIMS
    try:
        stored = load(claim.execution_id)
        execution = _restored(stored, claim, at, watch)
    except _AWAY:
        raise
    except Exception as error:  # any value can be in a row that another release wrote, or that was damaged
        if not last or outline is None:
            raise _left(claim, error) from error
        stored = outline(claim.execution_id)
        execution = _sealed(stored, claim, at, error)
        logger.error("execution %s cannot be driven: %s", claim.execution_id, execution.sealed)  # noqa: TRY400 - it says why
    if (
        not last
        and (missing := _missing_operator(execution, {command.kind for command in stored.commands})) is not None
    ):
        raise NotAllowedError(f"Execution {claim.execution_id} is left to other workers: {missing}")
    execution.suspect = claim.claims > SUSPECT
    faults.point("scheduler.after_restore")
    if claim.claims > MAX_CLAIMS and not execution.ended:
        execution.set_aside(f"its worker went away {MAX_CLAIMS} times without any progress", at)
    driver.submit(execution, stored.commands, waits=stored.queued)


def _restored(
    stored: Stored, claim: Claim, at: datetime, watch: Callable[[Stored], Watch | None] = lambda _: None
) -> Execution:
    """The execution; without a watch where what the safety engine remembers, and not the execution, is unreadable."""
    try:
        return restore(stored, claim.token, at, watch(stored), lost_by=claim.lost_by)
    except _AWAY:
        raise
    except Exception:
        execution = restore(stored, claim.token, at, lost_by=claim.lost_by)
        logger.exception("execution %s is not watched", claim.execution_id)
        return execution


def _sealed(stored: Stored, claim: Claim, at: datetime, error: Exception) -> Execution:
    """The end of an execution of which there is only an outline. Raises NotAllowedError if not even that holds."""
    try:
        execution = restore(replace(stored, goal=Goal.RUN), claim.token, at, lost_by=claim.lost_by)
        execution.goal = stored.goal
        execution.seal(_unreadable(stored, error), at)
    except Exception as failed:
        raise _left(claim, failed) from failed
    return execution


def _missing_operator(execution: Execution, asked: Collection[CommandKind]) -> str | None:
    """What is wrong with the first stage to be run, or undone, whose operator this worker does not have."""
    if CommandKind.STOP in asked:  # that takes none
        return None
    undoes = execution.goal is Goal.ROLLBACK or CommandKind.ROLLBACK in asked
    for run in execution.stages.values():
        if undoes or run.status is not StageStatus.COMPLETED:
            try:
                operator_of(run.stage.type, run.stage.config)
            except NotFoundError as error:
                return f"stage {run.stage.id!r}: {error.message}"
    return None


def _left(claim: Claim, error: Exception) -> FlexiRoasterError:
    if isinstance(error, FlexiRoasterError):
        return error
    return NotAllowedError(f"What is stored of execution {claim.execution_id} cannot be read: {error!r}")


def _unreadable(stored: Stored, error: Exception) -> str:
    if isinstance(error, FlexiRoasterError):  # it names pipeline and revision
        return error.message
    where = f"pipeline {stored.pipeline.id!r} at revision {stored.revision}"
    return f"what is stored of the execution of {where} cannot be read: {error!r}"
