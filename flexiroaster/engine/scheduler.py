"""The scheduler: claims executions without a driver and hands them to this process's driver.

Recovery has a single path. However an execution lost its driver (a crash, a freeze, a hand-over, a command for a paused
execution), it becomes claimable and an ordinary claim resumes it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from flexiroaster.engine.driver import Driver
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.engine.state_machine.rollback import start_undo_when_idle
from flexiroaster.errors import FlexiRoasterError, NotAllowedError, NotFoundError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import EventType, Level, utc_now
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.operators.registry import operator_of
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.store.leases import SUSPECT, Claim, Stored
from flexiroaster.threads import SupervisedThread, Threads

__all__ = ["Scheduler", "adopt", "restore"]

logger = logging.getLogger(__name__)

MAX_CLAIMS = 3
"""Number of driver losses without progress in between after which an execution fails permanently."""

_NEVER = datetime.min.replace(tzinfo=UTC)

_ENVIRONMENT_ERRORS = (StoreError, SQLAlchemyError, OSError, MemoryError)
"""Errors of the environment, which do not mean that the execution itself is unreadable."""


class Scheduler:
    """A thread that claims executions, up to `capacity` at a time, when it is woken and every `poll` seconds.

    `claim(limit, suspects)` claims suspects or other executions, `load` reads an execution, `watch` creates its safety
    watch, and `outline` reads the readable columns of an execution that cannot be loaded. `give_back` reverts claims,
    one of which may have failed. All of them raise StoreError.

    Executions that repeatedly lost their drivers are suspects: one of them may be crashing workers while the others
    were only in the same process. Suspects are driven one at a time until they make progress, so that each is judged
    alone.
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
        self._unused: deque[Claim] = deque()  # claimed, not yet adopted
        self._failed: str | None = None  # the execution among them that could not be read
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
        """Look for work now."""
        self._woken.set()

    def close(self, timeout: float = 5.0) -> None:
        """Stop claiming and end the thread."""
        self._closed.set()
        self._woken.set()
        self._thread.join(timeout)

    def _turn(self) -> bool:
        """Claim, then wait if there is no more work; return whether to continue."""
        if self._closed.is_set() or not self._driver.alive:
            return False
        if not self._claim_and_adopt():
            self._woken.wait(self._poll)
        self._woken.clear()
        return True

    def _claim_and_adopt(self) -> bool:
        """Claim up to the free capacity; return whether there may be more work. Raises StoreError."""
        self._give_back_unused()
        free = self._capacity - len(self._driver.driven)
        if free <= 0:
            return False
        claims = self._claim(free, False)
        self._unused.extend(claims)
        try:
            if len(claims) < free and self._driver.suspects == 0:
                self._unused.extend(self._claim(1, True))
            while self._unused:
                self._failed = self._unused[0].execution_id
                self._adopt(self._unused[0])
                self._unused.popleft()
                self._failed = None
        except Exception:  # the claims after the failed one are not at fault
            with suppress(StoreError):  # retried before the next claim
                self._give_back_unused()
            raise
        return len(claims) == free

    def _give_back_unused(self) -> None:
        """Revert claims that were not adopted: they do not count, and other workers can claim them at once."""
        if self._unused:
            self._give_back(tuple(self._unused), self._failed)
            self._unused.clear()
            self._failed = None

    def _adopt(self, claim: Claim) -> None:
        try:
            adopt(self._driver, claim, self._load, self._watch, self._outline)
        except StoreError:
            raise
        except FlexiRoasterError as error:  # the lease expires, so another worker can try
            logger.error("cannot resume execution %s: %s", claim.execution_id, error)  # noqa: TRY400 - the message has the cause


def adopt(
    driver: Driver,
    claim: Claim,
    load: Callable[[str], Stored],
    watch: Callable[[Stored], Watch | None] = lambda _: None,
    outline: Callable[[str], Stored] | None = None,
) -> None:
    """Resume an execution that was claimed for this driver.

    Its stored data may be unreadable, or its stages may need operators that this worker does not have. A worker of
    another release or with other packages may succeed, so the lease expires and other workers can claim the execution.
    Claim number `MAX_CLAIMS` is the last: then an unreadable execution fails permanently, using its `outline`, which
    also frees its slot, and a stage without an operator runs and fails.

    Raises StoreError, and NotFoundError, DefinitionError or NotAllowedError for an execution left to other workers.
    """
    failpoints.point("scheduler.after_claim")
    at, last = utc_now(), claim.claims >= MAX_CLAIMS
    try:
        stored = load(claim.execution_id)
        execution = _restore_watched(stored, claim, at, watch)
    except _ENVIRONMENT_ERRORS:
        raise
    except Exception as error:  # a row of another release, or a damaged row, can contain any value
        if not last or outline is None:
            raise _left_to_others(claim, error) from error
        stored = outline(claim.execution_id)
        execution = _restore_unreadable(stored, claim, at, error)
        logger.error("execution %s cannot be driven: %s", claim.execution_id, execution.unreadable_reason)  # noqa: TRY400 - the message has the cause
    missing = None if last else _missing_operator(execution, {command.kind for command in stored.commands})
    if missing is not None:
        raise NotAllowedError(f"Execution {claim.execution_id} is left to other workers: {missing}")
    execution.suspect = claim.claims > SUSPECT
    failpoints.point("scheduler.after_restore")
    if claim.claims > MAX_CLAIMS and not execution.ended:
        execution.fail_permanently(f"it lost its worker {MAX_CLAIMS} times without progress", at)
    driver.submit(execution, stored.commands, waits=stored.queued)


def _missing_operator(execution: Execution, commands: Collection[CommandKind]) -> str | None:
    """Describe the first stage to run, or undo, whose operator this worker does not have; None if all exist."""
    if CommandKind.STOP in commands:  # a stop needs no operator
        return None
    undoes = execution.goal is Goal.ROLLBACK or CommandKind.ROLLBACK in commands
    for run in execution.stages.values():
        if undoes or run.status is not StageStatus.COMPLETED:
            try:
                operator_of(run.stage.type, run.stage.config)
            except NotFoundError as error:
                return f"stage {run.stage.id!r}: {error.message}"
    return None


def _left_to_others(claim: Claim, error: Exception) -> FlexiRoasterError:
    if isinstance(error, FlexiRoasterError):
        return error
    return NotAllowedError(f"The stored data of execution {claim.execution_id} cannot be read: {error!r}")


# --- restoring ---------------------------------------------------------------------------------------------------


def _restore_watched(stored: Stored, claim: Claim, at: datetime, watch: Callable[[Stored], Watch | None]) -> Execution:
    """Restore the execution; without a watch if only the safety engine's data is unreadable."""
    try:
        return restore(stored, claim.token, at, watch(stored), lost_by=claim.lost_by)
    except _ENVIRONMENT_ERRORS:
        raise
    except Exception:
        execution = restore(stored, claim.token, at, lost_by=claim.lost_by)
        logger.exception("execution %s runs without the safety engine", claim.execution_id)
        return execution


def _restore_unreadable(stored: Stored, claim: Claim, at: datetime, error: Exception) -> Execution:
    """Fail an execution that has only an outline. Raises NotAllowedError if the outline is invalid, too."""
    try:
        execution = restore(replace(stored, goal=Goal.RUN), claim.token, at, lost_by=claim.lost_by)
        execution.goal = stored.goal
        if isinstance(error, FlexiRoasterError):  # its message has the pipeline and revision
            reason = error.message
        else:
            where = f"pipeline {stored.pipeline.id!r} at revision {stored.revision}"
            reason = f"the stored execution of {where} cannot be read: {error!r}"
        execution.fail_unreadable(reason, at)
    except Exception as failed:
        raise _left_to_others(claim, failed) from failed
    return execution


def restore(
    stored: Stored, token: int, at: datetime, watch: Watch | None = None, *, lost_by: str | None = None
) -> Execution:
    """Restore the execution as of its last event. Attempts that ran in the lost driver run again.

    `watch` learns the stages that have completed. `lost_by` is the worker whose lease expired, if one did.
    """
    execution = Execution(
        stored.execution_id,
        stored.pipeline,
        stored.variables,
        token=token,
        seq=stored.last_seq,
        status=stored.status,
        started_at=stored.started_at,
        completed_at=stored.completed_at,
        error=stored.error,
        goal=stored.goal,
        slot=stored.slot,
        pause_deadline=stored.pause_deadline,
        overdue=stored.overdue,
        elapsed=(at - stored.running_since).total_seconds() if stored.running_since else 0.0,
        watch=watch,
    )
    for row in stored.stages:
        run = execution.stages[row.stage_id]
        run.status, run.attempt = row.status, row.attempt
        run.started_at, run.completed_at, run.retry_at = row.started_at, row.completed_at, row.retry_at
        run.output, run.error, run.is_anomaly = row.output, row.error, row.is_anomaly
    if watch is not None:
        _replay_into_watch(watch, execution)
    execution.recompute_ready_stages()
    if lost_by is not None:
        message = f"Execution taken over because the lease of its worker expired: {lost_by}"
        execution.record_event(EventType.EXECUTION_CLAIMED, message, at, Level.WARNING, data={"lost_by": lost_by})
    _revert_running_attempts(execution, at)
    if stored.goal is Goal.ROLLBACK:
        execution.stopping = "rollback"
        start_undo_when_idle(execution, at)
    elif stored.status in {ExecutionStatus.RUNNING, ExecutionStatus.PAUSED}:
        execution.cancel_unstarted_if_ending(at)
    return execution


def _replay_into_watch(watch: Watch, execution: Execution) -> None:
    ended = [end for run in execution.stages.values() if (end := run.end()) is not None]
    for end in sorted(ended, key=lambda end: execution.stages[end.stage_id].completed_at or _NEVER):
        watch.stage_completed(end)
    watch.abnormal = any(run.is_anomaly for run in execution.stages.values())


def _revert_running_attempts(execution: Execution, at: datetime) -> None:
    """Revert the attempts of the former driver: their results are unknown, so they do not count."""
    for stage_id, run in execution.stages.items():
        if run.status is not StageStatus.RUNNING:
            continue
        run.interrupt()
        execution.mark_changed(stage_id)
        message = f"Stage will run again because its worker was lost: {run.stage.title}"
        execution.record_event(EventType.STAGE_INTERRUPTED, message, at, Level.WARNING, stage_id)
        execution.ready.append(stage_id)
