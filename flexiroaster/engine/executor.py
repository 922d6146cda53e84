"""One execution as a state machine: what happened goes in, what is to be written and run comes out.

It does no I/O and asks no clock, so that every path can be tested. Its driver calls the methods named after what
happened (`begin`, `stage_ended`, `stop`, ...), asks for stages to start while there are free processes
(`start_next`), and then takes one `Transition` with all that changed since the last (`take`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flexiroaster.engine.messages import Task
from flexiroaster.engine.retry import backoff, worth_retrying
from flexiroaster.engine.rollback import Rollback, undo_when_quiet
from flexiroaster.engine.stage_run import StageRun
from flexiroaster.errors import ErrorClass
from flexiroaster.model import graph
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import STAGE_ENDED, TERMINAL, ExecutionStatus, Goal, StageStatus, check_move
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.store.changes import Transition

__all__ = ["Execution"]

S = StageStatus


@dataclass(slots=True, eq=False)
class Execution:
    """The state of one execution that this process drives, as of its last event (`seq`)."""

    id: str
    pipeline: Pipeline
    variables: Mapping[str, Any]
    token: int
    seq: int = 1
    status: ExecutionStatus = ExecutionStatus.PENDING
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error: dict[str, Any] | None = None
    goal: Goal = Goal.RUN
    rollback: Rollback | None = None
    slot: int | None = None  # of the pipeline's concurrency
    stopping: str | None = None  # why no further stage starts
    pause_deadline: datetime | None = None  # when a pause becomes a stop
    overdue: bool = False  # that was so when this driver took it up
    stages: dict[str, StageRun] = field(init=False)
    ready: deque[str] = field(init=False, default_factory=deque)
    completed: int = 0
    waits: bool = False  # for a slot of its pipeline; nothing starts
    suspect: bool = False  # it lost its drivers again and again, without any progress between
    elapsed: float = 0.0  # seconds that its limit has counted before this driver took it up
    handled: list[tuple[int, str]] = field(init=False, default_factory=list)  # commands, and what came of them
    stop_commands: list[int] = field(init=False, default_factory=list)  # handled when it has ended
    _open: int = field(init=False)  # stages that have not ended
    _interrupted: set[str] = field(init=False, default_factory=set)  # attempts we end through no fault of theirs
    _progress: bool = False  # a stage has completed since the last transition
    _followers: dict[str, list[str]] = field(init=False)
    _written: ExecutionStatus = field(init=False)
    _events: list[Event] = field(init=False, default_factory=list)
    _changed: dict[str, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._written = self.status
        dependencies = self.pipeline.dependencies()
        self._followers = graph.dependents(dependencies)
        by_id = {stage.id: stage for stage in self.pipeline.stages}
        self.stages = {i: StageRun(by_id[i], len(dependencies[i])) for i in self.pipeline.order()}
        self._open = len(self.stages)

    # --- what happens ------------------------------------------------------------------------------------------

    def begin(self, at: datetime) -> None:
        """Start it: the stages without dependencies become ready."""
        self.move(ExecutionStatus.RUNNING)
        self.started_at = at
        self._event(EventType.EXECUTION_STARTED, f"Execution started: {self.pipeline.name}", at)
        self.line_up()

    def begin_if_pending(self, at: datetime) -> None:
        """Start it unless it was started, is stopped or waits for its turn; a claim in vain leaves a trace as well."""
        if self.status is ExecutionStatus.PENDING and not self.waits:
            self.begin(at)
        elif self.ended and not self.changed:
            self._event(EventType.EXECUTION_RELEASED, "Nothing to do yet", at)

    def start_next(self, at: datetime) -> Task | None:
        """Start the next ready stage (in a rollback: undo the next one): its task, None when none may start."""
        if not self.startable:
            return None
        if self.rollback is not None:
            run = self.stages[self.rollback.start(self, at)]
            return self._task(run, undo=(run.output or {}).get("effect") or {})
        run = self.stages[self.ready.popleft()]
        run.start(at)
        again = f" (attempt {run.attempt})" if run.attempt > 1 else ""
        self._stage_event(run, EventType.STAGE_STARTED, f"Stage started: {run.stage.title}{again}", at)
        return self._task(run)

    def _task(self, run: StageRun, undo: dict[str, Any] | None = None) -> Task:
        inputs = {i: self.stages[i].output or {} for i in run.stage.dependencies}
        return Task(
            key=f"{self.id}/{run.stage.id}/{self.token}.{self.seq}",
            execution_id=self.id,
            pipeline_name=self.pipeline.name,
            stage_id=run.stage.id,
            attempt=run.attempt,
            token=self.token,
            stage_type=run.stage.type,
            config=run.stage.config,
            variables=self.variables,
            inputs=inputs,
            memory_limit=run.stage.memory_limit,
            undo=undo,
        )

    def stage_completed(self, stage_id: str, output: dict[str, Any], at: datetime) -> None:
        """An attempt gave its result."""
        if self.rollback is not None and self.rollback.active:
            self.rollback.undone(self, str(output.get("undone", "")), at)
            return
        run = self._end_attempt(stage_id, at)
        run.move(S.COMPLETED)
        run.output, run.error = output, None
        self.completed += 1
        self._progress, self.suspect = True, False
        rows = output.get("rows")
        told = "" if rows is None else f", {rows:,} rows"
        self._stage_event(run, EventType.STAGE_COMPLETED, f"Stage completed: {run.stage.title}{told}", at, data=output)
        self._stage_ended(run, at)
        undo_when_quiet(self, at)

    def stage_failed(self, stage_id: str, error: dict[str, Any], at: datetime) -> float | None:
        """An attempt failed; the seconds after which `retry` is to be called, None when there is no other attempt."""
        if stage_id in self._interrupted:
            self._attempt_interrupted(stage_id, at)
            return None
        if self.rollback is not None and self.rollback.active:
            return self.rollback.failed(self, error, at)
        run = self._end_attempt(stage_id, at)
        run.error = error
        error_class = ErrorClass(error["class"])
        if self.stopping is not None:
            self._cancel_stage(run, at)
            self._settle(at)
            undo_when_quiet(self, at)
            return None
        if self.error is None and worth_retrying(run.stage, error_class, run.attempt):
            return self._wait_for_retry(run, error, at)
        self._fail_stage(run, error, at)
        return None

    def retry(self, stage_id: str) -> None:
        """The time to wait is over; nothing happens when the stage does not wait any more."""
        if self.stages[stage_id].status is S.WAITING and stage_id not in self.ready:
            self.ready.append(stage_id)

    def log(self, stage_id: str, level: Level, message: str, at: datetime, data: dict[str, Any] | None = None) -> None:
        """A stage said something."""
        run = self.stages[stage_id]
        self._event(EventType.STAGE_LOG, message, at, level, stage_id, run.attempt, data)

    def progress(self, stage_id: str, fraction: float | None, message: str, at: datetime) -> None:
        """A stage told how far it is (0..1)."""
        run = self.stages[stage_id]
        told = message or (f"{fraction:.0%}" if fraction is not None else "")
        data = {"fraction": fraction}
        self._event(EventType.STAGE_PROGRESS, told, at, Level.DEBUG, stage_id, run.attempt, data)

    def stop(self, reason: str, at: datetime) -> None:
        """Somebody wants it stopped: nothing starts any more, and with the last running stage it is cancelled."""
        if self.stopping is not None or self.status in TERMINAL:
            return
        self.stopping = reason
        self._event(EventType.EXECUTION_STOPPING, f"Stopping: {reason}", at, Level.WARNING)
        self.cancel_unstarted(at)
        self._settle(at)

    def time_out(self, seconds: float, at: datetime) -> None:
        """The whole execution took too long: it fails when the running stages have ended."""
        if self.stopping is None and self.status not in TERMINAL:
            message = f"The execution exceeded its limit of {seconds:g} s"
            self.error = {"message": message, "class": ErrorClass.TIMEOUT.value, "stage_id": None}
            self.stop(message, at)

    def pause(self, reason: str, at: datetime, *, interrupt: bool = False, deadline: datetime | None = None) -> None:
        """Start nothing any more until `resume`. What runs may finish, or with `interrupt` is ended and begins anew.

        At the deadline, if there is one, the pause becomes a stop (`end_pause`).
        """
        self.move(ExecutionStatus.PAUSED)
        self.pause_deadline = deadline
        if interrupt:
            self.prepare_interrupt()
        told = "running stages are interrupted" if interrupt else "running stages may finish"
        if deadline is not None:
            told += f"; it is stopped at {_to_the_second(deadline)} unless it is resumed before"
        self._event(EventType.EXECUTION_PAUSED, f"Execution paused: {reason}; {told}", at, Level.WARNING)

    def end_pause(self, at: datetime) -> bool:
        """The deadline of its pause has passed: stop it, unless it was resumed; whether it was still paused."""
        if self.status is not ExecutionStatus.PAUSED or self.pause_deadline is None or self.goal is Goal.ROLLBACK:
            return False
        self.stop(f"it was paused until {_to_the_second(self.pause_deadline)} and nobody has resumed it", at)
        return True

    def resume(self, reason: str, at: datetime) -> None:
        """Go on where it was paused; one that began paused starts."""
        self.move(ExecutionStatus.RUNNING)
        self.started_at = self.started_at or at
        self._event(EventType.EXECUTION_RESUMED, f"Execution resumed: {reason}", at)
        self._settle(at)

    def retry_failed(self, reason: str, at: datetime) -> None:
        """Run again what failed or was cancelled, and what was skipped because of that, with fresh attempts."""
        self.move(ExecutionStatus.RUNNING)
        self.error = self.completed_at = self.stopping = None
        again = [run for run in self.stages.values() if run.status in {S.FAILED, S.CANCELLED, S.SKIPPED}]
        for run in again:
            run.reset()
            self._changed[run.stage.id] = None
        told = ", ".join(run.stage.id for run in again)
        self._event(EventType.EXECUTION_RETRIED, f"Execution retried: {reason}; again: {told}", at)
        self.line_up()
        self._settle(at)

    def prepare_interrupt(self) -> None:
        """The running attempts are about to be ended through no fault of theirs."""
        self._interrupted.update(self.running)

    def interrupt(self, at: datetime) -> None:
        """This process gives the execution up: what runs is taken back and begins anew elsewhere."""
        for stage_id in self.running:
            self._attempt_interrupted(stage_id, at)
        self._event(EventType.EXECUTION_RELEASED, "Handed over to another worker", at)

    def set_aside(self, reason: str, at: datetime) -> None:
        """Fail for good without running anything more."""
        self.error = {"message": reason, "class": ErrorClass.CRASH.value, "stage_id": None}
        if self.status is ExecutionStatus.PENDING:
            self.started_at = at
        self.finish_up(at)

    def finish_up(self, at: datetime) -> None:
        """Where it is failing or stopping: what has not started never will."""
        if self.error is not None or self.stopping is not None:
            self.cancel_unstarted(at)
            self._settle(at)

    def line_up(self) -> None:
        """Find out anew, from the states of all stages, which ones are ready."""
        self.ready.clear()
        self._open = sum(run.status not in STAGE_ENDED for run in self.stages.values())
        self.completed = sum(run.status is S.COMPLETED for run in self.stages.values())
        for stage_id, run in self.stages.items():
            run.missing = sum(self.stages[i].status not in STAGE_ENDED for i in run.stage.dependencies)
            if run.status is S.PENDING and run.missing == 0:
                self.ready.append(stage_id)

    # --- what comes of it --------------------------------------------------------------------------------------

    @property
    def running(self) -> list[str]:
        """The keys' stage ids of the attempts that run now."""
        return [i for i, run in self.stages.items() if run.status is S.RUNNING]

    @property
    def startable(self) -> bool:
        """Whether a stage may be started, or undone, now."""
        if self.rollback is not None:
            return not self.running and not self.rollback.active and not self.rollback.finished
        return bool(self.ready) and self.status is ExecutionStatus.RUNNING

    @property
    def ended(self) -> bool:
        """Whether nobody needs to drive it any more: it is in a terminal state, or paused with nothing running."""
        if self.goal is Goal.ROLLBACK:
            return False
        if self.status is ExecutionStatus.PAUSED:
            return not self.running
        return self.status in TERMINAL or (self.status is ExecutionStatus.PENDING and self.waits)

    @property
    def changed(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._events)

    def take(self) -> Transition | None:
        """All that changed since the last call, as one transition; None when nothing did."""
        if self.ended:
            self.handled += [(command_id, "done") for command_id in self.stop_commands]
            self.stop_commands.clear()
        if not self._events and not self.handled:
            return None
        transition = Transition(
            execution_id=self.id,
            token=self.token,
            expected=self._written,
            expected_seq=self.seq - len(self._events),
            status=self.status,
            completed_stages=self.completed,
            started_at=self.started_at,
            completed_at=self.completed_at,
            error=self.error,
            events=tuple(self._events),
            stages=tuple(self.stages[i].change() for i in self._changed),
            goal=self.goal,
            release=self.ended,
            freed_slot=self.slot if self.status in TERMINAL else None,
            pipeline_id=self.pipeline.id or "",
            progress=self._progress or self.ended,
            handled=tuple(self.handled),
            pause_deadline=self.pause_deadline,
        )
        self._events.clear()
        self._changed.clear()
        self.handled.clear()
        self._written = self.status
        self._progress = False
        if self.status in TERMINAL:
            self.slot = None
        return transition

    # --- how -----------------------------------------------------------------------------------------------------

    def _end_attempt(self, stage_id: str, at: datetime) -> StageRun:
        self._interrupted.discard(stage_id)
        run = self.stages[stage_id]
        run.completed_at = at
        return run

    def _attempt_interrupted(self, stage_id: str, at: datetime) -> None:
        """An attempt ended because we ended it: it does not count, and the stage waits for its turn again."""
        self._interrupted.discard(stage_id)
        run = self.stages[stage_id]
        run.interrupt()
        message = f"Stage interrupted, to begin anew: {run.stage.title}"
        self._stage_event(run, EventType.STAGE_INTERRUPTED, message, at, Level.WARNING)
        self.ready.appendleft(stage_id)
        if self.stopping is not None or self.error is not None:
            self.cancel_unstarted(at)
            self._settle(at)
            undo_when_quiet(self, at)

    def _wait_for_retry(self, run: StageRun, error: dict[str, Any], at: datetime) -> float:
        delay = backoff(run.stage, run.attempt, retry_after=error.get("retry_after"))
        run.move(S.WAITING)
        run.retry_at = at + timedelta(seconds=delay)
        left = (run.stage.max_retries or 0) - run.attempt + 1
        message = f"Stage failed, next attempt in {delay:.1f} s ({left} left): {run.stage.title}: {error['message']}"
        data = {"error": error, "delay": delay}
        self._stage_event(run, EventType.STAGE_RETRYING, message, at, Level.WARNING, data)
        return delay

    def _fail_stage(self, run: StageRun, error: dict[str, Any], at: datetime) -> None:
        run.move(S.FAILED)
        tried = f" after {run.attempt} attempts" if run.attempt > 1 else ""
        message = f"Stage failed{tried}: {run.stage.title}: {error['message']}"
        self._stage_event(run, EventType.STAGE_FAILED, message, at, Level.ERROR, {"error": error})
        if run.stage.is_critical and self.error is None:
            self.error = {
                "message": f"Stage {run.stage.id!r} failed: {error['message']}",
                "class": error["class"],
                "stage_id": run.stage.id,
            }
            self._skip_the_rest(f"the critical stage {run.stage.id!r} failed", at)
        self._stage_ended(run, at)

    def _stage_ended(self, run: StageRun, at: datetime) -> None:
        """Its followers become ready, or are skipped where it gave them nothing, and theirs in turn."""
        ended = deque([run])
        while ended:
            run = ended.popleft()
            self._open -= 1
            for follower_id in self._followers[run.stage.id]:
                follower = self.stages[follower_id]
                follower.missing -= 1
                if follower.status is not S.PENDING:
                    continue
                if run.status is not S.COMPLETED:
                    self._skip(follower, f"its dependency {run.stage.id!r} was {run.status}", at)
                    ended.append(follower)
                elif follower.missing == 0:
                    self.ready.append(follower_id)
        self._settle(at)

    def _skip(self, run: StageRun, reason: str, at: datetime) -> None:
        run.move(S.SKIPPED)
        run.completed_at = at
        run.error = {"message": f"skipped: {reason}", "class": ErrorClass.CANCELLED.value}
        message = f"Stage skipped: {run.stage.title}: {reason}"
        self._stage_event(run, EventType.STAGE_SKIPPED, message, at, Level.WARNING, {"reason": reason})

    def _skip_the_rest(self, reason: str, at: datetime) -> None:
        """After a critical failure: what runs may finish (a retry can use it), nothing else starts."""
        self.ready.clear()
        for run in self.stages.values():
            if run.status is S.PENDING:
                self._skip(run, reason, at)
                self._open -= 1
            elif run.status is S.WAITING:
                self._cancel_stage(run, at)

    def cancel_unstarted(self, at: datetime) -> None:
        """What has not started never will."""
        self.ready.clear()
        for run in self.stages.values():
            if run.status in {S.PENDING, S.WAITING}:
                self._cancel_stage(run, at)

    def _cancel_stage(self, run: StageRun, at: datetime) -> None:
        """Only while nothing starts any more: its followers are ended as well."""
        run.move(S.CANCELLED)
        run.completed_at, run.retry_at = at, None
        self._open -= 1
        self._stage_event(run, EventType.STAGE_CANCELLED, f"Stage cancelled: {run.stage.title}", at, Level.WARNING)

    def _settle(self, at: datetime) -> None:
        """End the execution once every stage has ended."""
        if self._open > 0 or self.status in TERMINAL or self.goal is Goal.ROLLBACK:
            return
        self.completed_at = at
        if self.error is not None:
            self.move(ExecutionStatus.FAILED)
            self._event(EventType.EXECUTION_FAILED, f"Execution failed: {self.error['message']}", at, Level.ERROR)
        elif self.stopping is not None:
            self.move(ExecutionStatus.CANCELLED)
            self._event(EventType.EXECUTION_CANCELLED, f"Execution cancelled: {self.stopping}", at, Level.WARNING)
        else:
            self.move(ExecutionStatus.COMPLETED)
            self._event(EventType.EXECUTION_COMPLETED, self._summary(), at)

    def _summary(self) -> str:
        left = [run.stage.id for run in self.stages.values() if run.status is not S.COMPLETED]
        told = f"; not completed: {', '.join(left)}" if left else ""
        return f"Execution completed: {self.completed} of {len(self.stages)} stages{told}"

    def move(self, status: ExecutionStatus) -> None:
        """Change the state. Raises NotAllowedError for a move that is not in the table."""
        check_move(self.status, status)
        self.status = status
        self.pause_deadline = None

    def touch(self, stage_id: str) -> None:
        """A stage's row has changed."""
        self._changed[stage_id] = None

    def tell(
        self,
        kind: EventType,
        message: str,
        at: datetime,
        level: Level = Level.INFO,
        stage_id: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Add an event."""
        self._event(kind, message, at, level, stage_id, None, data)

    def _stage_event(
        self,
        run: StageRun,
        kind: EventType,
        message: str,
        at: datetime,
        level: Level = Level.INFO,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._changed[run.stage.id] = None
        self._event(kind, message, at, level, run.stage.id, run.attempt or None, data)

    def _event(
        self,
        kind: EventType,
        message: str,
        at: datetime,
        level: Level = Level.INFO,
        stage_id: str | None = None,
        attempt: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self.seq += 1
        self._events.append(Event(self.id, self.seq, kind, message, at, level, stage_id, attempt, data))


def _to_the_second(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")
