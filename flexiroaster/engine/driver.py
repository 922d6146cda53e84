"""The driver: one thread with one event loop that drives all executions of a process.

Each turn processes all pending events (ended attempts, commands, timers), lets the state machines react, writes every
change in one transaction, and only then starts the stages that the transaction records as started.
"""

from __future__ import annotations

import logging
import selectors
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.engine.driven_execution import DrivenExecution, DrivenExecutionRegistry, commit, late_timer
from flexiroaster.engine.event_loop import Inbox, Listener, Listeners, Timer, Timers
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import ErrorClass, FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.command import Command
from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store.journal.transitions import Transition
from flexiroaster.store.journal.writer import Journal
from flexiroaster.threads import in_one_line
from flexiroaster.workers.protocol import Ended, Log, Message, Progress, Task

if TYPE_CHECKING:
    from flexiroaster.workers.local_runner import Runner

__all__ = ["Driver", "Limits"]

logger = logging.getLogger(__name__)

LOG_FLUSH_SECONDS = 0.1
"""Maximum delay until log lines and progress of a stage are written."""

PROGRESS_SECONDS = 0.5
"""Minimum interval between two progress events of a stage."""

HAND_OVER_SECONDS = 0.5
"""Time that killed attempts have to end when the process hands its executions over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the installation in seconds: `execution` is a whole execution, `stop_grace` from a stop to the kill."""

    execution: float = 3600.0
    stop_grace: float = 10.0


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
        driven = DrivenExecution(execution)
        self._driven.add(driven)
        self._post(lambda: self._begin(driven, commands))
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
            self._abandon_all(_failed(error))
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
                with self._contained(driven):
                    self._runner.start(task)

    @contextmanager
    def _contained(self, driven: DrivenExecution) -> Iterator[None]:
        """Limit a defect to one execution, which is abandoned, and claimed again once its lease has expired.

        Claims are counted, so an execution that keeps causing defects finally fails.
        """
        try:
            yield
        except Exception as error:
            logger.exception("abandoning execution %s: the driver failed while processing it", driven.execution.id)
            self._abandon(driven, _failed(error))

    def _schedule(self, driven: DrivenExecution, seconds: float, action: Callable[[], None]) -> Timer:
        """Run an action for an execution after `seconds`."""

        def act() -> None:
            with self._contained(driven):
                action()

        return self._timers.after(seconds, act)

    def _start_ready(self) -> list[tuple[DrivenExecution, Task]]:
        """Assign free processes to the queued executions, one stage per execution and round."""
        tasks: list[tuple[DrivenExecution, Task]] = []
        now = utc_now()
        while self._queue and len(tasks) < self._runner.free:
            driven = self._queue.popleft()
            driven.queued = False
            if driven.failure is not None:
                continue
            with self._contained(driven):
                task = driven.execution.start_next(now)
                if task is not None:
                    tasks.append((driven, task))
                    self._register(driven, task)
        return tasks

    def _register(self, driven: DrivenExecution, task: Task) -> None:
        self._by_attempt[task.key] = driven
        driven.attempts[task.key] = task.stage_id
        seconds = driven.execution.stages[task.stage_id].stage.timeout
        if seconds is not None:
            driven.timers[task.key] = self._schedule(driven, seconds, lambda: self._time_out_attempt(task, seconds))
        watch = driven.execution.watch
        if task.undo is None and watch is not None and watch.looks:
            self._check_late(driven, task.key, task.stage_id)
        self._mark_changed(driven)

    def _check_late(self, driven: DrivenExecution, key: str, stage_id: str) -> None:
        """Flag the stage if it is late, or schedule the next check; its limit may change while other stages end."""
        driven.timers.pop(late_timer(key), None)
        seconds = driven.execution.check_late(stage_id, utc_now())
        if seconds is not None:
            timer = self._schedule(driven, seconds, lambda: self._check_late(driven, key, stage_id))
            driven.timers[late_timer(key)] = timer
        if driven.execution.changed:
            self._mark_changed(driven)

    def _commit(self) -> None:
        """Write all changes in one transaction; abandon executions whose write is rejected."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        collected: list[tuple[DrivenExecution, Transition]] = []
        for driven in dirty.values():
            with self._contained(driven):
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

    def _begin(self, driven: DrivenExecution, commands: Sequence[Command]) -> None:
        execution = driven.execution
        with self._contained(driven):
            self._apply_commands(driven, commands)
            if execution.overdue:
                execution.end_pause(utc_now())
            execution.begin_if_pending(utc_now())
            self._start_time_limit(driven)
            self._mark_changed(driven)

    def _start_time_limit(self, driven: DrivenExecution) -> None:
        """Start the time limit of a whole execution; a resume or a retry restarts it."""
        driven.cancel_timer("")
        seconds = driven.execution.pipeline.timeout or self._limits.execution
        left = max(0.0, seconds - driven.execution.elapsed)
        driven.timers[""] = self._schedule(driven, left, lambda: self._time_out_execution(driven, seconds))

    def _apply_pending_commands(self, execution_ids: Collection[str] | None) -> None:
        driven_ids = self._driven.ids()
        try:
            commands = self._load_commands(driven_ids if execution_ids is None else driven_ids & set(execution_ids))
        except Exception as error:  # noqa: BLE001 - commands stay in the database and are read again later
            logger.warning("cannot read commands: %s", in_one_line(error))
            return
        for execution_id in dict.fromkeys(command.execution_id for command in commands):
            if (driven := self._driven.get(execution_id)) is not None:
                with self._contained(driven):
                    self._apply_commands(driven, [each for each in commands if each.execution_id == execution_id])

    def _apply_commands(self, driven: DrivenExecution, commands: Sequence[Command]) -> None:
        for command in commands:
            if command.id in driven.commands:
                continue
            driven.commands.add(command.id)
            if driven.execution.apply_command(command, utc_now()):
                self._end_attempts(driven)
            self._start_pause_timer(driven)
            if command.restarts_clock:
                driven.execution.elapsed = 0.0
                self._start_time_limit(driven)
            self._mark_changed(driven)

    def _start_pause_timer(self, driven: DrivenExecution) -> None:
        """Stop the execution at its pause deadline while stages still run; after that, the next claim does it."""
        driven.cancel_timer("pause")
        deadline = driven.execution.pause_deadline
        if deadline is not None:
            seconds = max(0.0, (deadline - utc_now()).total_seconds())
            driven.timers["pause"] = self._schedule(driven, seconds, lambda: self._end_pause(driven))

    def _end_pause(self, driven: DrivenExecution) -> None:
        if driven.execution.end_pause(utc_now()):
            self._end_attempts(driven)
            self._mark_changed(driven)

    def _deliver(self, message: Message) -> None:
        """Handle a message of the runner; the messages of abandoned attempts are dropped."""
        driven = self._by_attempt.get(message.key)
        if driven is None:
            return
        with self._contained(driven):
            stage_id = driven.attempts[message.key]
            if isinstance(message, Ended):
                self._end_attempt(driven, stage_id, message)
            elif isinstance(message, Log):
                data = {"logger": message.logger}
                if message.traceback:
                    data["traceback"] = message.traceback
                driven.execution.log(stage_id, Level(message.level), message.message, message.at, data)
                self._schedule_log_flush(driven)
            else:
                self._record_progress(driven, stage_id, message)

    def _end_attempt(self, driven: DrivenExecution, stage_id: str, message: Ended) -> None:
        del self._by_attempt[message.key]
        driven.attempt_ended(message.key, stage_id)
        failpoints.point("driver.after_end")
        now = utc_now()
        if message.error is None:
            driven.execution.stage_completed(stage_id, message.output or {}, now)
        else:
            driven.execution.stage_failed(stage_id, message.error, now)
            if driven.execution.interrupted:
                self._end_attempts(driven)
        self._mark_changed(driven)

    def _record_progress(self, driven: DrivenExecution, stage_id: str, message: Progress) -> None:
        now = monotonic()
        if now - driven.progressed.get(stage_id, float("-inf")) < PROGRESS_SECONDS:
            return
        driven.progressed[stage_id] = now
        driven.execution.progress(stage_id, message.fraction, message.message, utc_now())
        self._schedule_log_flush(driven)

    def _start_retry_timers(self, driven: DrivenExecution) -> None:
        """Synchronize the retry timers with the stages that wait for their next attempt."""
        retries = driven.execution.retries
        for stage_id, (at, timer) in tuple(driven.retries.items()):
            if retries.get(stage_id) != at:
                timer.cancel()
                del driven.retries[stage_id]
        for stage_id, at in retries.items():
            if stage_id not in driven.retries:
                seconds = max(0.0, (at - utc_now()).total_seconds())
                driven.retries[stage_id] = at, self._schedule(driven, seconds, partial(self._retry, driven, stage_id))

    def _retry(self, driven: DrivenExecution, stage_id: str) -> None:
        driven.retries.pop(stage_id, None)
        driven.execution.retry(stage_id)
        self._enqueue(driven)

    def _time_out_attempt(self, task: Task, seconds: float) -> None:
        message = f"the attempt exceeded its time limit of {seconds:g} s and was killed"
        self._runner.kill(task.key, {"type": "timeout", "message": message, "class": ErrorClass.TIMEOUT.value})

    def _time_out_execution(self, driven: DrivenExecution, seconds: float) -> None:
        if driven.execution.status is ExecutionStatus.RUNNING:
            driven.execution.time_out(seconds, utc_now())
            self._end_attempts(driven)
            self._mark_changed(driven)

    def _end_attempts(self, driven: DrivenExecution) -> None:
        """Cancel the running stages, and kill those that still run after the grace period."""
        keys = tuple(driven.attempts)
        for key in keys:
            self._runner.cancel(key)
        if keys:
            grace = self._limits.stop_grace
            self._schedule(driven, grace, lambda: self._kill(driven, keys, "after the grace period"))

    def _kill(self, driven: DrivenExecution, keys: Sequence[str], why: str) -> None:
        error = {"type": "stop", "message": f"killed {why}", "class": ErrorClass.CANCELLED.value}
        for key in keys:
            if key in driven.attempts:
                self._runner.kill(key, error)

    def _begin_hand_over(self, handed_over: set[str], done: threading.Event) -> None:
        """Kill all attempts. Once they have ended, or after a timeout, revert them and remove the executions."""
        self._handing_over = True
        self._queue.clear()
        for driven in self._driven.all():
            driven.execution.prepare_interrupt()
            self._kill(driven, tuple(driven.attempts), "to hand the execution over")
        self._timers.after(0.0, lambda: self._finish_hand_over(handed_over, done, monotonic() + HAND_OVER_SECONDS))

    def _finish_hand_over(self, handed_over: set[str], done: threading.Event, deadline: float) -> None:
        if any(driven.attempts for driven in self._driven.all()) and monotonic() < deadline:
            self._timers.after(0.01, lambda: self._finish_hand_over(handed_over, done, deadline))
            return
        for driven in self._driven.all():
            with self._contained(driven):
                driven.execution.interrupt(utc_now())
                self._dirty[driven.execution.id] = driven
        self._commit()
        for driven in self._driven.all():
            handed_over.add(driven.execution.id)
            self._abandon(driven, LeaseLostError("handed over to another worker"))
        done.set()

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _mark_changed(self, driven: DrivenExecution) -> None:
        """Write the execution this turn, and queue it if it has ready stages."""
        self._dirty[driven.execution.id] = driven
        if driven.retries or driven.execution.retries:
            self._start_retry_timers(driven)
        self._enqueue(driven)

    def _enqueue(self, driven: DrivenExecution) -> None:
        startable = driven.execution.startable and driven.failure is None and not self._handing_over
        if startable and not driven.queued:
            driven.queued = True
            self._queue.append(driven)

    def _schedule_log_flush(self, driven: DrivenExecution) -> None:
        """Write a log line or progress with the next change, or after LOG_FLUSH_SECONDS."""
        if "log" not in driven.timers:

            def flush() -> None:
                driven.timers.pop("log", None)
                self._mark_changed(driven)

            driven.timers["log"] = self._schedule(driven, LOG_FLUSH_SECONDS, flush)

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


def _failed(error: BaseException) -> StoreError:
    return StoreError(f"the driver failed: {error!r}")


def _closed() -> StoreError:
    return StoreError("the driver was closed before the execution ended")
