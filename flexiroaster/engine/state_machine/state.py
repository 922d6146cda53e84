"""The state of one execution and of its stages, and the transitions that events, the failure policy and rollback share.

`ExecutionState` collects the unwritten changes as one `Transition`; `Execution` adds the events of the driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import STAGE_MOVES, TERMINAL, ExecutionStatus, Goal, StageStatus, check_move
from flexiroaster.model.pipeline import Pipeline, Stage, dependents
from flexiroaster.safety.anomaly.stages import StageEnd
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.store.journal.transitions import NewDecision, StageChange, Transition

__all__ = ["ExecutionState", "Rollback", "StageRun", "to_the_second"]

S = StageStatus


@dataclass(slots=True)
class StageRun:
    """State of a stage. `missing` counts unfinished dependencies; `attempt` counts from 1 and is 0 before the first."""

    stage: Stage
    missing: int
    status: StageStatus = StageStatus.PENDING
    attempt: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    retry_at: datetime | None = None
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_anomaly: bool = False

    def move(self, status: StageStatus) -> None:
        """Change the state. Raises AssertionError, since a transition outside the table is a defect."""
        if status not in STAGE_MOVES[self.status]:
            raise AssertionError(f"stage {self.stage.id}: {self.status} -> {status}")
        self.status = status

    def start(self, at: datetime) -> None:
        """Start the next attempt."""
        self.move(StageStatus.RUNNING)
        self.attempt += 1
        self.started_at, self.completed_at, self.retry_at = at, None, None

    def interrupt(self) -> None:
        """Revert an attempt that the engine ended; it does not count."""
        self.move(StageStatus.PENDING)
        self.attempt -= 1
        self.completed_at = None  # started_at stays, because the attempt may have had an effect

    def reset(self) -> None:
        """Reset the stage as if it had never run."""
        self.move(StageStatus.PENDING)
        self.attempt = 0
        self.started_at = self.completed_at = self.retry_at = self.output = self.error = None
        self.is_anomaly = False

    def end(self) -> StageEnd | None:
        """Result of a completed stage for the safety engine; None if it has not completed or was undone."""
        if self.status is not StageStatus.COMPLETED or self.started_at is None or self.completed_at is None:
            return None
        rows, size = ((self.output or {}).get(name) for name in ("rows", "bytes"))
        return StageEnd(
            self.stage.id,
            self.attempt,
            completed=True,
            duration_s=(self.completed_at - self.started_at).total_seconds(),
            rows=rows if isinstance(rows, int) else None,
            bytes=size if isinstance(size, int) else None,
        )

    def change(self) -> StageChange:
        """The current row of the stage."""
        times = (self.started_at, self.completed_at, self.retry_at)
        return StageChange(self.stage.id, self.status, self.attempt, *times, self.output, self.error, self.is_anomaly)

    def failure(self, error: dict[str, Any]) -> dict[str, Any]:
        """The error of an execution that fails because of this stage's error."""
        return {
            "message": f"Stage {self.stage.id!r} failed: {error['message']}",
            "class": error["class"],
            "stage_id": self.stage.id,
        }


@dataclass(slots=True)
class Rollback:
    """State of a rollback: `todo` are the stages to undo, next one first; `left` are the stages whose undo failed.

    `active` is true while an undo runs. Before a retry of an undo the execution waits (`ExecutionState.retries`). The
    time is stored as the stage's `retry_at`, so that another driver waits for it as well.
    """

    todo: deque[str]
    attempt: int = 0
    active: bool = False
    interrupted: bool = False  # the engine ends the attempt, which does not count
    left: list[dict[str, Any]] = field(default_factory=list)

    def next(self) -> str:
        """Remove the stage whose undo has ended, and return its id."""
        self.attempt, self.active, self.interrupted = 0, False, False
        return self.todo.popleft()


@dataclass(slots=True, eq=False)
class ExecutionState:
    """The state of one execution, as of its last event (`seq`)."""

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
    slot: int | None = None  # concurrency slot of the pipeline
    stopping: str | None = None  # why no further stage starts
    pause_deadline: datetime | None = None  # when a pause becomes a stop
    overdue: bool = False  # the pause deadline had passed when this driver claimed it
    stages: dict[str, StageRun] = field(init=False)
    ready: deque[str] = field(init=False, default_factory=deque)
    retries: dict[str, datetime] = field(init=False, default_factory=dict)  # stage id -> time of the next attempt
    completed: int = 0
    waits: bool = False  # waits for a slot of its pipeline; nothing starts
    unreadable_reason: str | None = None  # reason why it cannot be driven; commands are refused
    suspect: bool = False  # it lost several drivers in a row without progress
    elapsed: float = 0.0  # seconds of its time limit used before this driver claimed it
    watch: Watch | None = None  # of the safety engine; without it the stages' own rules apply
    decisions: list[NewDecision] = field(init=False, default_factory=list)  # since the last transition
    handled: list[tuple[int, str]] = field(init=False, default_factory=list)  # command id and result
    stop_commands: list[int] = field(init=False, default_factory=list)  # marked as handled once it has ended
    unfinished_count: int = field(init=False)  # stages that have not ended
    interrupted: set[str] = field(init=False, default_factory=set)  # stages whose attempts we end; these do not count
    progressed: bool = False  # a stage has completed since the last transition
    dependents: dict[str, list[str]] = field(init=False)
    _written: ExecutionStatus = field(init=False)
    _events: list[Event] = field(init=False, default_factory=list)
    _changed: dict[str, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._written = self.status
        dependencies = self.pipeline.dependencies()
        self.dependents = dependents(dependencies)
        by_id = {stage.id: stage for stage in self.pipeline.stages}
        self.stages = {i: StageRun(by_id[i], len(dependencies[i])) for i in self.pipeline.order()}
        self.unfinished_count = len(self.stages)

    @property
    def running(self) -> list[str]:
        """The ids of the stages that have a running attempt."""
        return [i for i, run in self.stages.items() if run.status is S.RUNNING]

    @property
    def stages_awaiting_decision(self) -> list[StageRun]:
        """The failed stages that the execution is paused for until a user decides about them."""
        if self.error is not None or self.status in TERMINAL:
            return []
        return [run for run in self.stages.values() if run.status is S.FAILED and run.stage.is_critical]

    @property
    def startable(self) -> bool:
        """Whether a stage can be started, or undone, now."""
        if self.rollback is not None:
            busy = self.running or self.rollback.active or self.retries
            return not busy and bool(self.rollback.todo)
        return bool(self.ready) and self.status is ExecutionStatus.RUNNING

    @property
    def ended(self) -> bool:
        """Whether it needs no driver: it is terminal, waits for a slot, or is paused with nothing running."""
        if self.goal is Goal.ROLLBACK:
            return False
        if self.status is ExecutionStatus.PAUSED:
            return not self.running
        return self.status in TERMINAL or (self.status is ExecutionStatus.PENDING and self.waits)

    @property
    def changed(self) -> bool:
        """Whether there are unwritten events."""
        return bool(self._events)

    def collect_transition(self) -> Transition | None:
        """Collect all changes since the last call as one transition; None if there are none."""
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
            progress=self.progressed or self.ended,
            handled=tuple(self.handled),
            pause_deadline=self.pause_deadline,
            decisions=tuple(self.decisions),
            must_be_queued=self.waits,
        )
        self._events.clear()
        self.decisions.clear()
        self._changed.clear()
        self.handled.clear()
        self._written = self.status
        self.progressed = False
        if self.status in TERMINAL:
            self.slot, self.waits = None, False
        return transition

    def move(self, status: ExecutionStatus) -> None:
        """Change the state. Raises NotAllowedError if the table does not have the transition."""
        check_move(self.status, status)
        self.status = status
        self.pause_deadline = None

    def mark_changed(self, stage_id: str) -> None:
        """Mark the row of a stage as changed."""
        self._changed[stage_id] = None

    def record_event(
        self,
        kind: EventType,
        message: str,
        at: datetime,
        level: Level = Level.INFO,
        stage_id: str | None = None,
        data: dict[str, Any] | None = None,
        attempt: int | None = None,
    ) -> None:
        """Add an event."""
        self.seq += 1
        self._events.append(Event(self.id, self.seq, kind, message, at, level, stage_id, attempt, data))

    def record_stage_event(
        self,
        run: StageRun,
        kind: EventType,
        message: str,
        at: datetime,
        level: Level = Level.INFO,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Add an event of a stage and mark its row as changed."""
        self.mark_changed(run.stage.id)
        self.record_event(kind, message, at, level, run.stage.id, data, run.attempt or None)

    # --- transitions -------------------------------------------------------------------------------------------

    def pause(self, reason: str, at: datetime, *, interrupt: bool = False, deadline: datetime | None = None) -> None:
        """Pause the execution: no stage starts until `resume`.

        Running stages may finish; with `interrupt` they are ended and run again later. When `deadline` passes, the
        execution is stopped (`end_pause`).
        """
        self.move(ExecutionStatus.PAUSED)
        self.pause_deadline = deadline
        if interrupt:
            self.prepare_interrupt()
        message = f"Execution paused: {reason}; running stages {'are interrupted' if interrupt else 'may finish'}"
        if deadline is not None:
            message += f"; it will be stopped at {to_the_second(deadline)} unless it is resumed before"
        self.record_event(EventType.EXECUTION_PAUSED, message, at, Level.WARNING)

    def hold_failed_stage(self, run: StageRun) -> None:
        """Keep a failed stage until a user decides about it; the stages that depend on it wait."""
        self.unfinished_count -= 1
        self.mark_changed(run.stage.id)

    def fail_held_stages(self) -> None:
        """Take the error of the first stage that awaits a decision: these stages will not run again."""
        if awaiting := self.stages_awaiting_decision:
            self.error = awaiting[0].failure(awaiting[0].error or {})

    def prepare_interrupt(self) -> None:
        """Mark the running attempts as interrupted, so that their end does not count."""
        self.interrupted.update(self.running)
        if self.rollback is not None:
            self.rollback.interrupted = self.rollback.active

    def release_dependents(self, run: StageRun, at: datetime) -> None:
        """Make the dependents of an ended stage ready, or skip them recursively if the stage did not complete."""
        ended = deque([run])
        while ended:
            run = ended.popleft()
            self.unfinished_count -= 1
            for dependent_id in self.dependents[run.stage.id]:
                dependent = self.stages[dependent_id]
                dependent.missing -= 1
                if dependent.status is not S.PENDING:
                    continue
                if run.status is not S.COMPLETED:
                    self.skip(dependent, f"its dependency {run.stage.id!r} was {run.status}", at)
                    ended.append(dependent)
                elif dependent.missing == 0:
                    self.ready.append(dependent_id)
        self.end_if_done(at)

    def skip(self, run: StageRun, reason: str, at: datetime) -> None:
        """Skip one stage."""
        run.move(S.SKIPPED)
        run.completed_at = at
        run.error = {"message": f"skipped: {reason}", "class": ErrorClass.CANCELLED.value}
        message = f"Stage skipped: {run.stage.title}: {reason}"
        self.record_stage_event(run, EventType.STAGE_SKIPPED, message, at, Level.WARNING, {"reason": reason})

    def skip_unstarted(self, reason: str, at: datetime) -> None:
        """Skip all stages that have not started, after a critical failure. Running stages finish, for a later retry."""
        self.ready.clear()
        for run in self.stages.values():
            if run.status is S.PENDING:
                self.skip(run, reason, at)
                self.unfinished_count -= 1
            elif run.status is S.WAITING:
                self.cancel_stage(run, at)

    def cancel_unstarted(self, at: datetime) -> None:
        """Cancel all stages that have not started."""
        self.ready.clear()
        for run in self.stages.values():
            if run.status in {S.PENDING, S.WAITING}:
                self.cancel_stage(run, at)

    def cancel_stage(self, run: StageRun, at: datetime) -> None:
        """Cancel one stage. Only valid while no stage starts any more, because its dependents must end as well."""
        run.move(S.CANCELLED)
        run.completed_at, run.retry_at = at, None
        self.retries.pop(run.stage.id, None)
        self.unfinished_count -= 1
        self.record_stage_event(
            run, EventType.STAGE_CANCELLED, f"Stage cancelled: {run.stage.title}", at, Level.WARNING
        )

    def end_if_done(self, at: datetime) -> None:
        """End the execution once every stage has ended."""
        if (
            self.unfinished_count > 0
            or self.status in TERMINAL
            or self.goal is Goal.ROLLBACK
            or self.stages_awaiting_decision
        ):
            return
        self.completed_at = at
        if self.error is not None:
            self.move(ExecutionStatus.FAILED)
            self.record_event(EventType.EXECUTION_FAILED, f"Execution failed: {self.error['message']}", at, Level.ERROR)
        elif self.stopping is not None:
            self.move(ExecutionStatus.CANCELLED)
            self.record_event(EventType.EXECUTION_CANCELLED, f"Execution cancelled: {self.stopping}", at, Level.WARNING)
        else:
            self.move(ExecutionStatus.COMPLETED)
            left = [run.stage.id for run in self.stages.values() if run.status is not S.COMPLETED]
            message = f"Execution completed: {self.completed} of {len(self.stages)} stages"
            message += f"; not completed: {', '.join(left)}" if left else ""
            self.record_event(EventType.EXECUTION_COMPLETED, message, at)


def to_the_second(at: datetime) -> str:
    """Format a time for a message."""
    return at.isoformat(sep=" ", timespec="seconds")
