"""The driver: one thread with one event loop that drives all executions of a process.

Each turn processes all pending events (ended attempts, commands, timers), lets the state machines react, writes every
change in one transaction, and only then starts the stages that the transaction records as started.
"""

from __future__ import annotations

import logging
import selectors
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.engine.driven_execution import DrivenExecution, DrivenExecutionRegistry, Limits, driver_failed
from flexiroaster.engine.event_loop import Inbox, Listener, Listeners, Timers
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import ErrorClass, FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.command import Command
from flexiroaster.model.event import utc_now
from flexiroaster.store.journal.transitions import Transition
from flexiroaster.store.journal.writer import Journal
from flexiroaster.threads import in_one_line
from flexiroaster.workers.protocol import Ended, Message, Task

if TYPE_CHECKING:
    from flexiroaster.workers.local_runner import Runner

__all__ = ["Driver", "commit"]

logger = logging.getLogger(__name__)

_CANNOT_WRITE = "cannot write the state of %d executions: %s"

Refusals = dict[str, FlexiRoasterError]
"""Execution id -> the error of its rejected write."""

HAND_OVER_SECONDS = 0.5
"""Time that killed attempts have to end when the process hands its executions over."""


class Driver:
    """Runs executions until they end. Any thread may call the public methods.

    `journal` and `load_commands` access the database; `start_runner` creates the worker processes.
    """

    def __init__(
        self,
        journal: Callable[[], Journal],
        load_commands: Callable[[Collection[str]], list[Command]],
        start_runner: Callable[[selectors.BaseSelector, Callable[[Message], None]], Runner],
        limits: Limits | None = None,
    ) -> None:
        self._journal = journal
        self._load_commands = load_commands
        self._limits = limits or Limits()
        self._driven = DrivenExecutionRegistry()
        self._by_attempt: dict[str, DrivenExecution] = {}
        self._queue: deque[DrivenExecution] = deque()  # executions with ready stages, served round-robin
        self._dirty: dict[str, DrivenExecution] = {}
        self._timers = Timers()
        self._listeners = Listeners()
        self._selector = selectors.DefaultSelector()
        self._inbox = Inbox(self._selector)
        self._post = self._inbox.post
        self._runner = start_runner(self._selector, self._deliver)
        self._closing = False
        self._handing_over = False
        self._over = False
        self.failure: str | None = None
        """The error that ended the driver, as one line."""
        self._thread = threading.Thread(target=self._run, name="flexiroaster-driver", daemon=True)
        self._thread.start()

    # --- called from any thread --------------------------------------------------------------------------------

    @property
    def driven(self) -> set[str]:
        """The ids of the executions that this driver drives now."""
        return self._driven.ids()

    @property
    def suspects(self) -> int:
        """The number of driven executions that may be crashing workers, because they have made no progress yet."""
        return sum(driven.execution.suspect for driven in self._driven.all())

    @property
    def alive(self) -> bool:
        """Whether the driver's thread runs. A failed driver drives nothing, and its leases expire."""
        return self._thread.is_alive()

    def submit(self, execution: Execution, commands: Sequence[Command] = (), *, waits: bool = False) -> None:
        """Drive an execution that this process has claimed: a new one, or one that another driver drove before.

        An execution that `waits` for a slot of its pipeline is not started, only its commands are applied. A failed or
        closed driver drives nothing: the lease expires, and `wait` raises.
        """
        execution.waits = waits
        driven = DrivenExecution(
            execution, self._runner, self._timers, self._limits, self._write_and_enqueue, self._abandon
        )
        self._driven.add(driven)
        self._post(lambda: driven.begin(commands))
        if self._over:
            self._abandon_all(_closed())

    def look_for_commands(self, execution_ids: Collection[str] | None = None) -> None:
        """Read and apply new commands of these executions; None means all driven executions."""
        self._post(lambda: self._apply_pending_commands(execution_ids))

    def abandon(self, execution_ids: Collection[str], error: FlexiRoasterError) -> None:
        """Kill the stages of executions whose leases are lost, and remove the executions."""

        def act() -> None:
            for execution_id in execution_ids:
                if (driven := self._driven.get(execution_id)) is not None:
                    self._abandon(driven, error)

        self._post(act)

    def kill_and_abandon(self, execution_ids: Collection[str], error: FlexiRoasterError) -> None:
        """Like `abandon`, but kill the processes from this thread: the driver's thread may hang in the database."""
        self._runner.kill_processes()
        self.abandon(execution_ids, error)

    def hand_over(self, timeout: float = 5.0) -> set[str]:
        """Hand all executions over to other workers: their attempts are killed and do not count.

        Returns the ids of executions that have not ended; the caller must release their leases.
        """
        handed_over: set[str] = set()
        if not self.alive:  # it has abandoned all executions and cannot write
            return handed_over
        done = threading.Event()
        self._post(lambda: self._begin_hand_over(handed_over, done))
        done.wait(timeout)
        return handed_over

    def wait(self, execution_id: str, timeout: float | None = None) -> bool:
        """Wait until an execution is no longer driven here; return False if `timeout` (s) passes first.

        Raises the error that ended the driving, unless the execution itself ended.
        """
        driven = self._driven.get(execution_id)
        if driven is None:
            return True
        if not driven.ended.wait(timeout):
            return False
        if driven.failure is not None:
            raise driven.failure
        return True

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with committed events, on the driver's thread. Returns the function that removes it."""
        return self._listeners.add(listener)

    def close(self, timeout: float = 30.0) -> None:
        """Stop the loop and all processes. Unfinished executions keep their state in the database."""
        self._closing = True
        self._post(lambda: None)
        self._thread.join(timeout)

    # --- the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # no caller sees it: it is logged, and the process ends
            self.failure = in_one_line(error)
            message = "the driver has failed; other workers will resume its %d executions once their leases expire"
            logger.critical(message, len(self._driven.ids()), exc_info=True)
            self._abandon_all(driver_failed(error))
        finally:
            try:
                self._runner.close()
                self._selector.close()
                self._inbox.close()
            finally:
                self._over = True  # before the last pass: a later `submit` sees it
                self._abandon_all(_closed())

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timers.wait(monotonic())):
            key.data()
        self._inbox.run()
        for action in self._timers.due(monotonic()):
            action()
        tasks = self._start_ready()
        self._commit()
        for driven, task in tasks:
            failpoints.point("driver.before_start")
            if driven.failure is None:
                with driven.contained():
                    self._runner.start(task)

    def _start_ready(self) -> list[tuple[DrivenExecution, Task]]:
        """Assign free processes to the queued executions, one stage per execution and round."""
        tasks: list[tuple[DrivenExecution, Task]] = []
        now = utc_now()
        while self._queue and len(tasks) < self._runner.free:
            driven = self._queue.popleft()
            driven.queued = False
            if driven.failure is not None:
                continue
            with driven.contained():
                if (task := driven.start_next(now)) is not None:
                    self._by_attempt[task.key] = driven
                    tasks.append((driven, task))
        return tasks

    def _commit(self) -> None:
        """Write all changes in one transaction; abandon executions whose write is rejected."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        collected: list[tuple[DrivenExecution, Transition]] = []
        for driven in dirty.values():
            with driven.contained():
                if (transition := driven.execution.collect_transition()) is not None:
                    collected.append((driven, transition))
        refusals = commit(self._journal, [transition for _, transition in collected])
        for driven, transition in collected:
            refusal = refusals.get(transition.execution_id)
            if refusal is not None:
                self._abandon(driven, refusal)
                continue
            self._listeners.publish(transition.events)
            if transition.release:
                self._forget(driven)

    # --- events ------------------------------------------------------------------------------------------------

    def _apply_pending_commands(self, execution_ids: Collection[str] | None) -> None:
        driven_ids = self._driven.ids()
        try:
            commands = self._load_commands(driven_ids if execution_ids is None else driven_ids & set(execution_ids))
        except Exception as error:  # noqa: BLE001 - commands stay in the database and are read again later
            logger.warning("cannot read commands: %s", in_one_line(error))
            return
        for execution_id in dict.fromkeys(command.execution_id for command in commands):
            if (driven := self._driven.get(execution_id)) is not None:
                driven.apply_commands([command for command in commands if command.execution_id == execution_id])

    def _deliver(self, message: Message) -> None:
        """Pass a message on to the execution of its attempt; the messages of abandoned attempts are dropped."""
        driven = self._by_attempt.get(message.key)
        if driven is not None:
            if isinstance(message, Ended):
                del self._by_attempt[message.key]
            driven.handle(message)

    def _begin_hand_over(self, handed_over: set[str], done: threading.Event) -> None:
        """Kill all attempts. Once they have ended, or after a timeout, revert them and remove the executions."""
        self._handing_over = True
        self._queue.clear()
        for driven in self._driven.all():
            driven.kill_to_hand_over()
        self._timers.after(0.0, lambda: self._finish_hand_over(handed_over, done, monotonic() + HAND_OVER_SECONDS))

    def _finish_hand_over(self, handed_over: set[str], done: threading.Event, deadline: float) -> None:
        if any(driven.attempts for driven in self._driven.all()) and monotonic() < deadline:
            self._timers.after(0.01, lambda: self._finish_hand_over(handed_over, done, deadline))
            return
        for driven in self._driven.all():
            with driven.contained():
                driven.execution.interrupt(utc_now())
                self._dirty[driven.execution.id] = driven
        self._commit()
        for driven in self._driven.all():
            handed_over.add(driven.execution.id)
            self._abandon(driven, LeaseLostError("handed over to another worker"))
        done.set()

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _write_and_enqueue(self, driven: DrivenExecution) -> None:
        """Write the execution in this turn, and queue it if it has ready stages."""
        self._dirty[driven.execution.id] = driven
        startable = driven.execution.startable and driven.failure is None and not self._handing_over
        if startable and not driven.queued:
            driven.queued = True
            self._queue.append(driven)

    def _forget(self, driven: DrivenExecution) -> None:
        driven.cancel_timers()
        self._driven.remove(driven)
        self._dirty.pop(driven.execution.id, None)
        driven.ended.set()

    def _abandon(self, driven: DrivenExecution, error: FlexiRoasterError) -> None:
        """Kill the stages of an execution whose state we can no longer write, and remove it."""
        driven.failure = error
        for key in tuple(driven.attempts):
            self._by_attempt.pop(key, None)
            with suppress(KeyError):  # it may not have started yet
                self._runner.kill(key, {"type": "lease", "message": str(error), "class": ErrorClass.CANCELLED.value})
        driven.execution.ready.clear()
        self._forget(driven)

    def _abandon_all(self, error: FlexiRoasterError) -> None:
        for driven in self._driven.all():
            driven.failure = error
            self._forget(driven)


def _closed() -> StoreError:
    return StoreError("the driver was closed before the execution ended")


def commit(journal: Callable[[], Journal], transitions: Sequence[Transition]) -> Refusals:
    """Write all transitions. Returns the error of each execution whose write was rejected, by id; abandon these.

    A defect, such as a transition that cannot be encoded, fails only its own execution.
    """
    if not transitions:
        return {}
    ids = [transition.execution_id for transition in transitions]
    try:
        landed, refused = journal().apply_each(transitions)
    except StoreError as error:  # no connection for a journal
        logger.error(_CANNOT_WRITE, len(ids), error)  # noqa: TRY400 - the message has the cause
        return dict.fromkeys(ids, error)
    _log_refused(refused)
    lost = {i: LeaseLostError(f"another driver has taken over {i}") for i in ids if i not in landed | refused}
    for refusal in lost.values():
        logger.warning("a write was rejected: %s", refusal)
    return {**refused, **lost}


def _log_refused(refused: Mapping[str, StoreError]) -> None:
    """Log one line if the database refuses or is unavailable, and each defect with its traceback."""
    causes = {i: error.__cause__ for i, error in refused.items()}
    defects = {i: e for i, e in causes.items() if isinstance(e, Exception) and not isinstance(e, StoreError)}
    for execution_id, cause in defects.items():
        logger.error("cannot write the state of execution %s", execution_id, exc_info=cause)
    others = {i: error for i, error in refused.items() if i not in defects}
    if others:
        logger.error(_CANNOT_WRITE, len(others), next(iter(others.values())))
