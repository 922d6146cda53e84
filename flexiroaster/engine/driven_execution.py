"""One execution that this process drives: its running attempts, timers and commands; and the registry of all of them.

A driven execution passes commands, ended attempts and due timers to the state machine, and ends attempts that must not
run any more. The driver's thread calls it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from flexiroaster.engine.event_loop import Timer, Timers
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import ErrorClass, FlexiRoasterError, StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.command import Command
from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.workers.protocol import Ended, Log, Message, Progress, Task

if TYPE_CHECKING:
    from flexiroaster.workers.local_runner import Runner

__all__ = ["DrivenExecution", "DrivenExecutionRegistry", "Limits", "driver_failed"]

logger = logging.getLogger(__name__)

LOG_FLUSH_SECONDS = 0.1
"""Maximum delay until log lines and progress of a stage are written."""

PROGRESS_SECONDS = 0.5
"""Minimum interval between two progress events of a stage."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the installation in seconds: `execution` is a whole execution, `stop_grace` from a stop to the kill."""

    execution: float = 3600.0
    stop_grace: float = 10.0


class DrivenExecution:
    """An execution that this process drives.

    `attempts` maps the key of each running attempt to its stage id. `timers` has each attempt's time limit under its
    key, its lateness check under `_late_timer(key)`, and the time limit of the whole execution under "". `retries` maps
    a stage id to the time and timer of its next attempt. `failure` is the reason why it is no longer driven.

    `changed` is called when there is something to write or to start, `abandon` after a defect.
    """

    def __init__(
        self,
        execution: Execution,
        runner: Runner,
        timers: Timers,
        limits: Limits,
        changed: Callable[[DrivenExecution], None],
        abandon: Callable[[DrivenExecution, FlexiRoasterError], None],
    ) -> None:
        self.execution = execution
        self._runner = runner
        self._loop_timers = timers
        self._limits = limits
        self._changed = changed
        self._abandon = abandon
        self.ended = threading.Event()
        self.failure: FlexiRoasterError | None = None
        self.attempts: dict[str, str] = {}
        self.timers: dict[str, Timer] = {}
        self.retries: dict[str, tuple[datetime, Timer]] = {}
        self.queued = False  # is in the queue for processes
        self._commands: set[int] = set()  # already read
        self._progress_at: dict[str, float] = {}  # stage id -> time of its last progress event

    def begin(self, commands: Sequence[Command]) -> None:
        """Apply the commands, and start the execution if it is pending."""
        with self.contained():
            self._apply(commands)
            if self.execution.overdue:
                self.execution.end_pause(utc_now())
            self.execution.begin_if_pending(utc_now())
            self._start_time_limit()
            self.mark_changed()

    def apply_commands(self, commands: Sequence[Command]) -> None:
        """Apply the commands that it has not read before."""
        with self.contained():
            self._apply(commands)

    def start_next(self, at: datetime) -> Task | None:
        """Start the next ready stage and return the task to run, or None."""
        task = self.execution.start_next(at)
        if task is None:
            return None
        self.attempts[task.key] = task.stage_id
        seconds = self.execution.stages[task.stage_id].stage.timeout
        if seconds is not None:
            self.timers[task.key] = self._schedule(seconds, lambda: self._time_out_attempt(task, seconds))
        watch = self.execution.watch
        if task.undo is None and watch is not None and watch.monitors_stages:
            self._check_late(task.key, task.stage_id)
        self.mark_changed()
        return task

    def handle(self, message: Message) -> None:
        """Handle a message of one of its attempts."""
        with self.contained():
            stage_id = self.attempts[message.key]
            if isinstance(message, Ended):
                self._end_attempt(stage_id, message)
            elif isinstance(message, Log):
                data = {"logger": message.logger}
                if message.traceback:
                    data["traceback"] = message.traceback
                self.execution.log(stage_id, Level(message.level), message.message, message.at, data)
                self._schedule_log_flush()
            else:
                self._record_progress(stage_id, message)

    def kill_to_hand_over(self) -> None:
        """Kill all attempts; they will not count."""
        self.execution.prepare_interrupt()
        self._kill(tuple(self.attempts), "to hand the execution over")

    def mark_changed(self) -> None:
        """Have the execution written in this turn, and its ready stages started."""
        if self.retries or self.execution.retries:
            self._start_retry_timers()
        self._changed(self)

    def cancel_timers(self) -> None:
        """Cancel all timers."""
        for timer in (*self.timers.values(), *(timer for _, timer in self.retries.values())):
            timer.cancel()

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Limit a defect to this execution, which is abandoned, and claimed again once its lease has expired.

        Claims are counted, so an execution that keeps causing defects finally fails.
        """
        try:
            yield
        except Exception as error:
            logger.exception("abandoning execution %s: the driver failed while processing it", self.execution.id)
            self._abandon(self, driver_failed(error))

    def _schedule(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run an action after `seconds`."""

        def act() -> None:
            with self.contained():
                action()

        return self._loop_timers.after(seconds, act)

    def _cancel_timer(self, name: str) -> None:
        if (timer := self.timers.pop(name, None)) is not None:
            timer.cancel()

    # --- commands and time limits ------------------------------------------------------------------------------

    def _apply(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if command.id in self._commands:
                continue
            self._commands.add(command.id)
            if self.execution.apply_command(command, utc_now()):
                self._end_attempts()
            self._start_pause_timer()
            if command.restarts_clock:
                self.execution.elapsed = 0.0
                self._start_time_limit()
            self.mark_changed()

    def _start_time_limit(self) -> None:
        """Start the time limit of a whole execution; a resume or a retry restarts it."""
        self._cancel_timer("")
        seconds = self.execution.pipeline.timeout or self._limits.execution
        left = max(0.0, seconds - self.execution.elapsed)
        self.timers[""] = self._schedule(left, lambda: self._time_out_execution(seconds))

    def _start_pause_timer(self) -> None:
        """Stop the execution at its pause deadline while stages still run; after that, the next claim does it."""
        self._cancel_timer("pause")
        deadline = self.execution.pause_deadline
        if deadline is not None:
            seconds = max(0.0, (deadline - utc_now()).total_seconds())
            self.timers["pause"] = self._schedule(seconds, self._end_pause)

    def _end_pause(self) -> None:
        if self.execution.end_pause(utc_now()):
            self._end_attempts()
            self.mark_changed()

    def _time_out_execution(self, seconds: float) -> None:
        if self.execution.status is ExecutionStatus.RUNNING:
            self.execution.time_out(seconds, utc_now())
            self._end_attempts()
            self.mark_changed()

    # --- attempts ----------------------------------------------------------------------------------------------

    def _end_attempt(self, stage_id: str, message: Ended) -> None:
        del self.attempts[message.key]
        self._cancel_timer(message.key)
        self._cancel_timer(_late_timer(message.key))
        self._progress_at.pop(stage_id, None)
        failpoints.point("driver.after_end")
        now = utc_now()
        if message.error is None:
            self.execution.stage_completed(stage_id, message.output or {}, now)
        else:
            self.execution.stage_failed(stage_id, message.error, now)
            if self.execution.interrupted:
                self._end_attempts()
        self.mark_changed()

    def _record_progress(self, stage_id: str, message: Progress) -> None:
        now = monotonic()
        if now - self._progress_at.get(stage_id, float("-inf")) < PROGRESS_SECONDS:
            return
        self._progress_at[stage_id] = now
        self.execution.progress(stage_id, message.fraction, message.message, utc_now())
        self._schedule_log_flush()

    def _schedule_log_flush(self) -> None:
        """Write a log line or progress with the next change, or after LOG_FLUSH_SECONDS."""
        if "log" not in self.timers:

            def flush() -> None:
                self.timers.pop("log", None)
                self.mark_changed()

            self.timers["log"] = self._schedule(LOG_FLUSH_SECONDS, flush)

    def _check_late(self, key: str, stage_id: str) -> None:
        """Flag the stage if it is late, or schedule the next check; its limit may change while other stages end."""
        self.timers.pop(_late_timer(key), None)
        seconds = self.execution.check_late(stage_id, utc_now())
        if seconds is not None:
            self.timers[_late_timer(key)] = self._schedule(seconds, lambda: self._check_late(key, stage_id))
        if self.execution.changed:
            self.mark_changed()

    def _start_retry_timers(self) -> None:
        """Synchronize the retry timers with the stages that wait for their next attempt."""
        retries = self.execution.retries
        for stage_id, (at, timer) in tuple(self.retries.items()):
            if retries.get(stage_id) != at:
                timer.cancel()
                del self.retries[stage_id]
        for stage_id, at in retries.items():
            if stage_id not in self.retries:
                seconds = max(0.0, (at - utc_now()).total_seconds())
                self.retries[stage_id] = at, self._schedule(seconds, partial(self._retry, stage_id))

    def _retry(self, stage_id: str) -> None:
        self.retries.pop(stage_id, None)
        self.execution.retry(stage_id)
        self._changed(self)

    def _time_out_attempt(self, task: Task, seconds: float) -> None:
        message = f"the attempt exceeded its time limit of {seconds:g} s and was killed"
        self._runner.kill(task.key, {"type": "timeout", "message": message, "class": ErrorClass.TIMEOUT.value})

    def _end_attempts(self) -> None:
        """Cancel the running stages, and kill those that still run after the grace period."""
        keys = tuple(self.attempts)
        for key in keys:
            self._runner.cancel(key)
        if keys:
            grace = self._limits.stop_grace
            self._schedule(grace, lambda: self._kill(keys, "after the grace period"))

    def _kill(self, keys: Sequence[str], why: str) -> None:
        error = {"type": "stop", "message": f"killed {why}", "class": ErrorClass.CANCELLED.value}
        for key in keys:
            if key in self.attempts:
                self._runner.kill(key, error)


def _late_timer(key: str) -> str:
    """Name of the timer that checks whether an attempt is late."""
    return f"{key} late"


def driver_failed(error: BaseException) -> StoreError:
    """The error of an execution that was abandoned because of a defect."""
    return StoreError(f"the driver failed: {error!r}")


class DrivenExecutionRegistry:
    """The executions that a process drives, by id. Thread-safe: iteration uses a copy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, DrivenExecution] = {}

    def add(self, driven: DrivenExecution) -> None:
        """Add an execution; it replaces an entry with the same id."""
        with self._lock:
            self._by_id[driven.execution.id] = driven

    def remove(self, driven: DrivenExecution) -> None:
        """Remove this entry; a newer entry with the same id stays."""
        with self._lock:
            if self._by_id.get(driven.execution.id) is driven:
                del self._by_id[driven.execution.id]

    def get(self, execution_id: str) -> DrivenExecution | None:
        """The entry with this id, or None."""
        with self._lock:
            return self._by_id.get(execution_id)

    def ids(self) -> set[str]:
        """All ids."""
        with self._lock:
            return set(self._by_id)

    def all(self) -> list[DrivenExecution]:
        """All entries, oldest first."""
        with self._lock:
            return list(self._by_id.values())
