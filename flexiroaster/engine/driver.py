"""Drives all executions of a process: one thread, one loop, fed by what happens.

Each turn takes all that has happened (attempts that ended, commands, timers), lets the state machines react, writes
every change in one transaction, and only then starts the stages that the transaction says have started.
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

from flexiroaster import faults
from flexiroaster.engine.commits import commit, driver_failed
from flexiroaster.engine.driven import Driven, DrivenExecutions, late_timer
from flexiroaster.engine.executor import Execution
from flexiroaster.engine.inbox import Inbox
from flexiroaster.engine.listeners import Listener, Listeners
from flexiroaster.engine.messages import Ended, Log, Message, Progress, Task
from flexiroaster.engine.obedience import obey
from flexiroaster.engine.timers import Timer, Timers
from flexiroaster.errors import ErrorClass, FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.model.command import Command
from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store.changes import Transition
from flexiroaster.store.journal import Journal
from flexiroaster.threads import in_one_line

if TYPE_CHECKING:
    from flexiroaster.engine.runner import Runner

__all__ = ["Driver", "Limits"]

logger = logging.getLogger(__name__)

LOG_FLUSH_SECONDS = 0.1
"""How long what a stage says may wait for a transaction of its own."""

PROGRESS_SECONDS = 0.5
"""Progress of a stage is written at most this often."""

HAND_OVER_SECONDS = 0.5
"""How long killed attempts may take to end when the process gives its executions up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The installation's limits, seconds: a whole execution, and from a stop to the kill of its stages."""

    execution: float = 3600.0
    stop_grace: float = 10.0


class Driver:
    """Runs executions until they end. Its public methods may be called from any thread.

    `journal` and `load_commands` are the way to the database; `start_runner` makes the processes.
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
        self._driven = DrivenExecutions()
        self._keys: dict[str, Driven] = {}
        self._line: deque[Driven] = deque()  # executions with ready stages, served in turn
        self._dirty: dict[str, Driven] = {}
        self._timers = Timers()
        self._listeners = Listeners()
        self._selector = selectors.DefaultSelector()
        self._inbox = Inbox(self._selector)
        self._post = self._inbox.post
        self._runner = start_runner(self._selector, self._deliver)
        self._closing = False
        self._giving_up = False
        self._over = False
        self.failure: str | None = None
        """The error that ended it, as one line."""
        self._thread = threading.Thread(target=self._run, name="flexiroaster-driver", daemon=True)
        self._thread.start()

    # --- for every thread --------------------------------------------------------------------------------------

    @property
    def driven(self) -> set[str]:
        """The executions that are driven here now."""
        return self._driven.ids()

    @property
    def suspects(self) -> int:
        """How many of them may be what takes workers down: they have not made progress yet."""
        return sum(driven.execution.suspect for driven in self._driven.all())

    @property
    def alive(self) -> bool:
        """Whether its thread runs. A driver that failed drives nothing any more; its leases run out."""
        return self._thread.is_alive()

    def submit(self, execution: Execution, commands: Sequence[Command] = (), *, waits: bool = False) -> None:
        """Drive an execution that this process has claimed: a new one, or one that somebody drove before.

        One that `waits` for a slot of its pipeline is not started, it only gets its commands carried out. A driver that
        has failed or was closed drives nothing: its lease runs out, and `wait` tells.
        """
        execution.waits = waits
        driven = Driven(execution)
        self._driven.add(driven)
        self._post(lambda: self._begin(driven, commands))
        if self._over:
            self._abandon_all(_closed())

    def look_for_commands(self, execution_ids: Collection[str] | None = None) -> None:
        """Somebody has stored a command for these executions; None: perhaps for any."""
        self._post(lambda: self._obey_pending(execution_ids))

    def lose(self, execution_ids: Collection[str], error: FlexiRoasterError) -> None:
        """The leases of these executions are not ours any more: kill their stages and forget them."""

        def abandon() -> None:
            for execution_id in execution_ids:
                if (driven := self._driven.get(execution_id)) is not None:
                    self._abandon(driven, error)

        self._post(abandon)

    def lose_now(self, execution_ids: Collection[str], error: FlexiRoasterError) -> None:
        """As `lose`, for when the driver's thread may hang in the database: the processes are killed from here."""
        self._runner.kill_processes()
        self.lose(execution_ids, error)

    def hand_over(self, timeout: float = 5.0) -> set[str]:
        """Give all executions up, so that others can claim them: their attempts are killed and do not count.

        The ids of those that did not end meanwhile; their leases are still to be released.
        """
        given: set[str] = set()
        if not self.alive:  # it has given everything up, and can write nothing
            return given
        done = threading.Event()
        self._post(lambda: self._give_up(given, done))
        done.wait(timeout)
        return given

    def wait(self, execution_id: str, timeout: float | None = None) -> bool:
        """Wait until an execution is not driven here any more; False when `timeout` (s) passed before.

        Raises the error that ended the driving, if it was not the execution's own end.
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
        """Call `listener` with events after their commit, on the driver's thread; the result ends that."""
        return self._listeners.add(listener)

    def close(self, timeout: float = 30.0) -> None:
        """End the loop and all processes. Executions that have not ended stay as they are in the database."""
        self._closing = True
        self._post(lambda: None)
        self._thread.join(timeout)

    # --- the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # no caller would see it: it is logged, and the process ends
            self.failure = in_one_line(error)
            told = "the driver has failed; others go on with its %d executions when their leases run out"
            logger.critical(told, len(self._driven.ids()), exc_info=True)
            self._abandon_all(driver_failed(error))
        finally:
            try:
                self._runner.close()
                self._selector.close()
                self._inbox.close()
            finally:
                self._over = True  # before the last look: what is submitted from now on finds it
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
            faults.point("driver.before_start")
            if driven.failure is None:
                with self._contained(driven):
                    self._runner.start(task)

    @contextmanager
    def _contained(self, driven: Driven) -> Iterator[None]:
        """A defect in one execution costs only that one: it is given up, and claimed again when its lease has run out.

        Claims are counted, so that one which fails the driver again and again is failed for good.
        """
        try:
            yield
        except Exception as error:
            logger.exception("execution %s is given up, the driver failed in it", driven.execution.id)
            self._abandon(driven, driver_failed(error))

    def _later(self, driven: Driven, seconds: float, action: Callable[[], None]) -> Timer:
        """Do something about an execution after so many seconds."""

        def act() -> None:
            with self._contained(driven):
                action()

        return self._timers.after(seconds, act)

    def _start_ready(self) -> list[tuple[Driven, Task]]:
        """Give free processes to the executions in the line, one stage each in turn."""
        tasks: list[tuple[Driven, Task]] = []
        now = utc_now()
        while self._line and len(tasks) < self._runner.free:
            driven = self._line.popleft()
            driven.queued = False
            if driven.failure is not None:
                continue
            with self._contained(driven):
                task = driven.execution.start_next(now)
                if task is not None:
                    tasks.append((driven, task))
                    self._register(driven, task)
                    self._changed(driven)
        return tasks

    def _register(self, driven: Driven, task: Task) -> None:
        self._keys[task.key] = driven
        driven.attempts[task.key] = task.stage_id
        seconds = driven.execution.stages[task.stage_id].stage.timeout
        if seconds is not None:
            driven.timers[task.key] = self._later(driven, seconds, lambda: self._time_out(task, seconds))
        watch = driven.execution.watch
        if task.undo is None and watch is not None and watch.looks:
            self._watch_late(driven, task.key, task.stage_id)

    def _watch_late(self, driven: Driven, key: str, stage_id: str) -> None:
        """Look whether the stage is late when it would be; how late that is may change while others end."""
        seconds = driven.execution.look_late(stage_id, utc_now())
        if seconds is not None:
            timer = self._later(driven, seconds, lambda: self._look_late(driven, key, stage_id))
            driven.timers[late_timer(key)] = timer

    def _look_late(self, driven: Driven, key: str, stage_id: str) -> None:
        driven.timers.pop(late_timer(key), None)
        self._watch_late(driven, key, stage_id)
        if driven.execution.changed:
            self._changed(driven)

    def _commit(self) -> None:
        """Write all changes in one transaction; whoever's did not land has lost its lease."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        taken: list[tuple[Driven, Transition]] = []
        for driven in dirty.values():
            with self._contained(driven):
                if (transition := driven.execution.take()) is not None:
                    taken.append((driven, transition))
        refusals = commit(self._journal, [transition for _, transition in taken])
        for driven, transition in taken:
            refusal = refusals.get(transition.execution_id)
            if refusal is not None:
                self._abandon(driven, refusal)
                continue
            self._listeners.publish(transition.events)
            if transition.release:
                self._forget(driven)

    # --- what happens ------------------------------------------------------------------------------------------

    def _begin(self, driven: Driven, commands: Sequence[Command]) -> None:
        execution = driven.execution
        with self._contained(driven):
            self._obey(driven, commands)
            if execution.overdue:
                execution.end_pause(utc_now())
            execution.begin_if_pending(utc_now())
            self._limit(driven, execution.pipeline.timeout or self._limits.execution)
            self._changed(driven)

    def _limit(self, driven: Driven, seconds: float) -> None:
        """Start the clock of a whole execution; a resume or a retry starts it anew."""
        if (timer := driven.timers.pop("", None)) is not None:
            timer.cancel()
        left = max(0.0, seconds - driven.execution.elapsed)
        driven.timers[""] = self._later(driven, left, lambda: self._end_overdue(driven, seconds))

    def _obey_pending(self, execution_ids: Collection[str] | None) -> None:
        driven_here = self._driven.ids()
        wanted = driven_here if execution_ids is None else driven_here.intersection(execution_ids)
        try:
            commands = self._load_commands(wanted)
        except Exception as error:  # noqa: BLE001 - they stay in the database, and are looked for again
            logger.warning("cannot read commands: %s", in_one_line(error))
            return
        for execution_id in dict.fromkeys(command.execution_id for command in commands):
            if (driven := self._driven.get(execution_id)) is not None:
                with self._contained(driven):
                    self._obey(driven, [command for command in commands if command.execution_id == execution_id])

    def _obey(self, driven: Driven, commands: Sequence[Command]) -> None:
        for command in commands:
            if command.id in driven.commands:
                continue
            driven.commands.add(command.id)
            if obey(driven.execution, command, utc_now()):
                self._end_attempts(driven)
            self._watch_pause(driven)
            if command.restarts_clock:
                driven.execution.elapsed = 0.0
                self._limit(driven, driven.execution.pipeline.timeout or self._limits.execution)
            self._changed(driven)

    def _watch_pause(self, driven: Driven) -> None:
        """Stop it at the deadline of its pause while stages still run; once none does, whoever claims it then does."""
        if (timer := driven.timers.pop("pause", None)) is not None:
            timer.cancel()
        deadline = driven.execution.pause_deadline
        if deadline is not None:
            seconds = max(0.0, (deadline - utc_now()).total_seconds())
            driven.timers["pause"] = self._later(driven, seconds, lambda: self._end_pause(driven))

    def _end_pause(self, driven: Driven) -> None:
        if driven.execution.end_pause(utc_now()):
            self._end_attempts(driven)
            self._changed(driven)

    def _deliver(self, message: Message) -> None:
        driven = self._keys.get(message.key)
        if driven is not None:
            with self._contained(driven):
                self._hear(driven, message)

    def _hear(self, driven: Driven, message: Message) -> None:
        stage_id = driven.attempts[message.key]
        if isinstance(message, Ended):
            self._attempt_ended(driven, stage_id, message)
        elif isinstance(message, Log):
            data = {"logger": message.logger}
            if message.traceback:
                data["traceback"] = message.traceback
            driven.execution.log(stage_id, Level(message.level), message.message, message.at, data)
            self._changed_softly(driven)
        else:
            self._progressed(driven, stage_id, message)

    def _attempt_ended(self, driven: Driven, stage_id: str, message: Ended) -> None:
        del self._keys[message.key]
        driven.attempt_ended(message.key, stage_id)
        faults.point("driver.after_end")
        now = utc_now()
        if message.error is None:
            driven.execution.stage_completed(stage_id, message.output or {}, now)
        else:
            driven.execution.stage_failed(stage_id, message.error, now)
            if driven.execution.interrupting:
                self._end_attempts(driven)
        self._changed(driven)

    def _progressed(self, driven: Driven, stage_id: str, message: Progress) -> None:
        now = monotonic()
        if now - driven.progressed.get(stage_id, float("-inf")) < PROGRESS_SECONDS:
            return
        driven.progressed[stage_id] = now
        driven.execution.progress(stage_id, message.fraction, message.message, utc_now())
        self._changed_softly(driven)

    def _time_retries(self, driven: Driven) -> None:
        """Have a timer for each stage that waits to be tried again, for its time, and no other."""
        wanted = driven.execution.retries
        for stage_id, (at, timer) in tuple(driven.retries.items()):
            if wanted.get(stage_id) != at:
                timer.cancel()
                del driven.retries[stage_id]
        for stage_id, at in wanted.items():
            if stage_id not in driven.retries:
                seconds = max(0.0, (at - utc_now()).total_seconds())
                driven.retries[stage_id] = at, self._later(driven, seconds, partial(self._retry, driven, stage_id))

    def _retry(self, driven: Driven, stage_id: str) -> None:
        driven.retries.pop(stage_id, None)
        driven.execution.retry(stage_id)
        self._line_up(driven)

    def _time_out(self, task: Task, seconds: float) -> None:
        message = f"the attempt exceeded its limit of {seconds:g} s and was killed"
        self._runner.kill(task.key, {"type": "timeout", "message": message, "class": ErrorClass.TIMEOUT.value})

    def _end_overdue(self, driven: Driven, seconds: float) -> None:
        if driven.execution.status is ExecutionStatus.RUNNING:
            driven.execution.time_out(seconds, utc_now())
            self._end_attempts(driven)
            self._changed(driven)

    def _end_attempts(self, driven: Driven) -> None:
        """Ask the running stages to end, and kill those that have not after the grace."""
        keys = tuple(driven.attempts)
        for key in keys:
            self._runner.cancel(key)
        if keys:
            grace = self._limits.stop_grace
            self._later(driven, grace, lambda: self._kill(driven, keys, "after the grace period"))

    def _kill(self, driven: Driven, keys: Sequence[str], why: str) -> None:
        error = {"type": "stop", "message": f"killed {why}", "class": ErrorClass.CANCELLED.value}
        for key in keys:
            if key in driven.attempts:
                self._runner.kill(key, error)

    def _give_up(self, given: set[str], done: threading.Event) -> None:
        """Kill all attempts; when they have ended, or a little later, take them back and forget the executions."""
        self._giving_up = True
        self._line.clear()
        for driven in self._driven.all():
            driven.execution.prepare_interrupt()
            self._kill(driven, tuple(driven.attempts), "to hand the execution over")
        self._timers.after(0.0, lambda: self._gave_up(given, done, monotonic() + HAND_OVER_SECONDS))

    def _gave_up(self, given: set[str], done: threading.Event, deadline: float) -> None:
        if any(driven.attempts for driven in self._driven.all()) and monotonic() < deadline:
            self._timers.after(0.01, lambda: self._gave_up(given, done, deadline))
            return
        for driven in self._driven.all():
            with self._contained(driven):
                driven.execution.interrupt(utc_now())
                self._dirty[driven.execution.id] = driven
        self._commit()
        for driven in self._driven.all():
            given.add(driven.execution.id)
            self._abandon(driven, LeaseLostError("handed over to another worker"))
        done.set()

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _changed(self, driven: Driven) -> None:
        """Something happened to it: write it this turn, and let it stand in the line if it has ready stages."""
        self._dirty[driven.execution.id] = driven
        if driven.retries or driven.execution.retries:
            self._time_retries(driven)
        self._line_up(driven)

    def _line_up(self, driven: Driven) -> None:
        startable = driven.execution.startable and driven.failure is None and not self._giving_up
        if startable and not driven.queued:
            driven.queued = True
            self._line.append(driven)

    def _changed_softly(self, driven: Driven) -> None:
        """It said something: write that with the next change, or soon."""
        if "log" not in driven.timers:
            driven.timers["log"] = self._later(driven, LOG_FLUSH_SECONDS, lambda: self._flush_log(driven))

    def _flush_log(self, driven: Driven) -> None:
        driven.timers.pop("log", None)
        self._changed(driven)

    def _forget(self, driven: Driven) -> None:
        driven.cancel_timers()
        self._driven.remove(driven)
        self._dirty.pop(driven.execution.id, None)
        driven.ended.set()

    def _abandon(self, driven: Driven, error: FlexiRoasterError) -> None:
        """We may not, or cannot, write its state any more: kill its stages and forget it."""
        driven.failure = error
        for key in tuple(driven.attempts):
            self._keys.pop(key, None)
            with suppress(KeyError):  # it may not have been started yet
                self._runner.kill(key, {"type": "lease", "message": str(error), "class": ErrorClass.CANCELLED.value})
        driven.execution.ready.clear()
        self._forget(driven)

    def _abandon_all(self, error: FlexiRoasterError) -> None:
        for driven in self._driven.all():
            driven.failure = error
            self._forget(driven)


def _closed() -> StoreError:
    return StoreError("the driver was closed before the execution ended")
