"""The state machine of one execution: events go in, transitions and tasks come out.

It does no I/O and reads no clock, so every path can be tested. The driver calls the method of each event (`begin`,
`stage_completed`, `stop`, ...), asks for stages to start while processes are free (`start_next`), and then collects
all changes since the last call as one `Transition` (`collect_transition`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from flexiroaster.engine.state_machine.failure_policy import after_anomaly, after_failure, record_failure
from flexiroaster.engine.state_machine.rollback import (
    begin_rollback,
    start_undo,
    start_undo_when_idle,
    undo_completed,
    undo_failed,
)
from flexiroaster.engine.state_machine.state import ExecutionState, StageRun, to_the_second
from flexiroaster.errors import ErrorClass
from flexiroaster.model.command import ALLOWED, Command, CommandKind
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import STAGE_ENDED, TERMINAL, ExecutionStatus, Goal, StageStatus
from flexiroaster.model.pipeline import downstream
from flexiroaster.safety.anomaly.alarms import AnomalyKind
from flexiroaster.workers.protocol import Task

__all__ = ["Execution"]

S = StageStatus

LATE_MARGIN_SECONDS = 0.01
"""Margin beyond the limit, so that one check is enough."""


class Execution(ExecutionState):
    """An execution that this process drives, as of its last event (`seq`)."""

    __slots__ = ()

    # --- events ------------------------------------------------------------------------------------------------

    def begin(self, at: datetime) -> None:
        """Start the execution: the stages without dependencies become ready."""
        self.move(ExecutionStatus.RUNNING)
        self.started_at = at
        self.record_event(EventType.EXECUTION_STARTED, f"Execution started: {self.pipeline.name}", at)
        self.recompute_ready_stages()

    def begin_if_pending(self, at: datetime) -> None:
        """Start a pending execution unless it waits for a slot. A claim with nothing to do records an event, too."""
        if self.status is ExecutionStatus.PENDING and not self.waits:
            self.begin(at)
        elif self.ended and not self.changed:
            self.record_event(EventType.EXECUTION_RELEASED, "Nothing to do yet", at)

    def start_next(self, at: datetime) -> Task | None:
        """Start the next ready stage (in a rollback: undo the next one) and return its task; None if none can start."""
        if not self.startable:
            return None
        if self.rollback is not None:
            run = start_undo(self, self.rollback, at)
            return self._task(run, undo=(run.output or {}).get("effect") or {})
        run = self.stages[self.ready.popleft()]
        run.start(at)
        attempt = f" (attempt {run.attempt})" if run.attempt > 1 else ""
        self.record_stage_event(run, EventType.STAGE_STARTED, f"Stage started: {run.stage.title}{attempt}", at)
        if self.watch is not None and (anomaly := self.watch.attempt_starts(repeated=run.attempt > 1)) is not None:
            after_anomaly(self, run, anomaly, at)
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
        """Process the result of a successful attempt."""
        if self.rollback is not None and self.rollback.active:
            undo_completed(self, self.rollback, str(output.get("undone", "")), at)
            return
        run = self._end_attempt(stage_id, at)
        run.move(S.COMPLETED)
        run.output, run.error = output, None
        self.completed += 1
        self.progressed, self.suspect = True, False
        rows = output.get("rows")
        message = f"Stage completed: {run.stage.title}{'' if rows is None else f', {rows:,} rows'}"
        self.record_stage_event(run, EventType.STAGE_COMPLETED, message, at, data=output)
        self._check_anomalies(run, at)
        self.release_dependents(run, at)
        start_undo_when_idle(self, at)

    def stage_failed(self, stage_id: str, error: dict[str, Any], at: datetime) -> None:
        """Process a failed attempt. If it is retried, `retries` has the time at which to call `retry`."""
        if stage_id in self.interrupted:
            self._attempt_interrupted(stage_id, at)
            return
        if self.rollback is not None and self.rollback.active:
            undo_failed(self, self.rollback, error, at)
            return
        run = self._end_attempt(stage_id, at)
        run.error = error
        if self.stopping is not None:
            self.cancel_stage(run, at)
            self.end_if_done(at)
            start_undo_when_idle(self, at)
        elif self.error is not None:
            record_failure(self, run, {"error": error}, at)
            self.release_dependents(run, at)
        else:
            after_failure(self, run, error, at)

    def _end_attempt(self, stage_id: str, at: datetime) -> StageRun:
        self.interrupted.discard(stage_id)
        run = self.stages[stage_id]
        run.completed_at = at
        return run

    def _attempt_interrupted(self, stage_id: str, at: datetime) -> None:
        """Revert an attempt that we ended: it does not count, and the stage is ready again."""
        self.interrupted.discard(stage_id)
        run = self.stages[stage_id]
        run.interrupt()
        message = f"Stage interrupted, will run again: {run.stage.title}"
        self.record_stage_event(run, EventType.STAGE_INTERRUPTED, message, at, Level.WARNING)
        self.ready.appendleft(stage_id)
        if self.stopping is not None or self.error is not None:
            self.cancel_unstarted(at)
            self.end_if_done(at)
            start_undo_when_idle(self, at)

    def _check_anomalies(self, run: StageRun, at: datetime) -> None:
        """Flag the anomalies of a completed stage; its lateness may already have been reported."""
        if self.watch is None or not self.watch.monitors_stages or (end := run.end()) is None:
            return
        for anomaly in self.watch.stage_completed(end):
            if anomaly.kind is not AnomalyKind.LATE or not run.is_anomaly:
                after_anomaly(self, run, anomaly, at)

    def check_late(self, stage_id: str, at: datetime) -> float | None:
        """Flag a stage that runs too long. Returns the seconds until the next check, or None if none is needed."""
        run = self.stages[stage_id]
        if self.watch is None or run.status is not S.RUNNING or run.is_anomaly or run.started_at is None:
            return None
        limit, elapsed = self.watch.late_after(stage_id), (at - run.started_at).total_seconds()
        if limit is None:
            return None
        if elapsed <= limit:
            return limit - elapsed + LATE_MARGIN_SECONDS
        if (anomaly := self.watch.still_running(stage_id, elapsed)) is not None:
            after_anomaly(self, run, anomaly, at)
        return None

    def retry(self, stage_id: str) -> None:
        """End the wait before a retry: the stage, or its undo, may start. A no-op if it no longer waits."""
        self.retries.pop(stage_id, None)
        if self.stages[stage_id].status is S.WAITING and stage_id not in self.ready:
            self.ready.append(stage_id)

    def log(self, stage_id: str, level: Level, message: str, at: datetime, data: dict[str, Any] | None = None) -> None:
        """Record a log line of a stage."""
        run = self.stages[stage_id]
        self.record_event(EventType.STAGE_LOG, message, at, level, stage_id, data, run.attempt or None)

    def progress(self, stage_id: str, fraction: float | None, message: str, at: datetime) -> None:
        """Record the progress of a stage (`fraction` is 0..1)."""
        run = self.stages[stage_id]
        message = message or (f"{fraction:.0%}" if fraction is not None else "")
        data = {"fraction": fraction}
        self.record_event(EventType.STAGE_PROGRESS, message, at, Level.DEBUG, stage_id, data, run.attempt or None)

    # --- commands ----------------------------------------------------------------------------------------------

    def apply_command(self, command: Command, at: datetime) -> bool:
        """Apply a command; return whether the running attempts must be ended.

        A command that the current state no longer allows is refused, with an event. A stop counts as handled once the
        execution has ended, so it survives a crash before that.
        """
        if command.slot is not None:  # taken when the command was stored; this driver may not know it
            self.slot = command.slot
        reason = command.reason
        if (refusal := self._refusal(command.kind)) is not None:
            self.handled.append((command.id, refusal))
            self.record_event(EventType.COMMAND_REFUSED, refusal, at, Level.WARNING)
            return False
        if command.kind is CommandKind.STOP:
            self.stop_commands.append(command.id)
            self.stop(reason, at)
            return True
        self.handled.append((command.id, "done"))
        match command.kind:
            case CommandKind.PAUSE:
                interrupt = command.arguments.get("mode") == "interrupt"
                self.pause(reason, at, interrupt=interrupt, deadline=command.deadline)
                return interrupt
            case CommandKind.RESUME:
                self.resume(reason, at, command.skip)
            case CommandKind.RETRY:
                self.retry_failed(reason, at, command.skip)
            case CommandKind.ROLLBACK:
                running = self.status is ExecutionStatus.PAUSED
                begin_rollback(self, reason, at)
                return running
        return False

    def _refusal(self, kind: CommandKind) -> str | None:
        """The reason why the current state does not allow the command, or None."""
        message = f"Cannot {kind} execution with status: {self.status}"
        if self.unreadable_reason is not None:
            return f"{message}; {self.unreadable_reason}"
        if self.status not in ALLOWED[kind] or self.goal is Goal.ROLLBACK:
            return message
        if kind is CommandKind.RETRY:
            if any(run.status is S.ROLLED_BACK for run in self.stages.values()):
                return f"{message}; some of its stages were undone"
            if self.pipeline.concurrency is not None and self.slot is None:
                return f"{message}; its pipeline is already running"
        return None

    def stop(self, reason: str, at: datetime) -> None:
        """Stop the execution: no stage starts any more, and it is cancelled once the last running stage has ended."""
        if self.stopping is not None or self.status in TERMINAL:
            return
        self.stopping = reason
        self.fail_held_stages()
        self.record_event(EventType.EXECUTION_STOPPING, f"Stopping: {reason}", at, Level.WARNING)
        self.cancel_unstarted(at)
        self.end_if_done(at)

    def time_out(self, seconds: float, at: datetime) -> None:
        """End an execution that exceeded its time limit: it fails once the running stages have ended."""
        if self.stopping is None and self.status not in TERMINAL:
            message = f"The execution exceeded its time limit of {seconds:g} s"
            self.error = {"message": message, "class": ErrorClass.TIMEOUT.value, "stage_id": None}
            self.stop(message, at)

    def end_pause(self, at: datetime) -> bool:
        """Stop an execution whose pause deadline has passed. Returns False if it is no longer paused."""
        if self.status is not ExecutionStatus.PAUSED or self.pause_deadline is None or self.goal is Goal.ROLLBACK:
            return False
        self.stop(f"it was not resumed before its pause deadline, {to_the_second(self.pause_deadline)}", at)
        return True

    def resume(self, reason: str, at: datetime, skip: Collection[str] = ()) -> None:
        """Resume a paused execution; one that was created paused starts.

        The failed stages that it was paused for run again, except the stages in `skip`.
        """
        failed = self.stages_awaiting_decision
        self.move(ExecutionStatus.RUNNING)
        self.started_at = self.started_at or at
        rerun = [run.stage.id for run in failed if run.stage.id not in skip]
        message = f"Execution resumed: {reason}"
        message += f"; rerunning: {', '.join(rerun)}" if rerun else ""
        self.record_event(EventType.EXECUTION_RESUMED, message, at, data={"again": rerun})
        for run in failed:
            self.unfinished_count += 1
            if run.stage.id in skip:
                self.skip(run, "requested by a user", at)
                self.release_dependents(run, at)
            else:
                self._reset_stage(run)
                self.ready.append(run.stage.id)
        self.end_if_done(at)

    def retry_failed(self, reason: str, at: datetime, skip: Collection[str] = ()) -> None:
        """Run failed, cancelled and skipped stages again with fresh attempts.

        The stages in `skip`, and the stages downstream of them, are left out.
        """
        self.move(ExecutionStatus.RUNNING)
        self.error = self.completed_at = self.stopping = None
        skipped = [i for i in skip if i in self.stages and self.stages[i].status is S.FAILED]
        edges = self.pipeline.dependencies()
        left_out = {*skipped, *(i for stage_id in skipped for i in downstream(edges, stage_id))}
        ended = {S.FAILED, S.CANCELLED, S.SKIPPED}
        rerun = [i for i, run in self.stages.items() if run.status in ended and i not in left_out]
        message = f"Execution retried: {reason}; rerunning: {', '.join(rerun)}"
        self.record_event(EventType.EXECUTION_RETRIED, message, at, data={"again": rerun})
        for stage_id in skipped:
            self.skip(self.stages[stage_id], "requested by a user", at)
        for stage_id in rerun:
            self._reset_stage(self.stages[stage_id])
        self.recompute_ready_stages()
        self.end_if_done(at)

    def _reset_stage(self, run: StageRun) -> None:
        run.reset()
        self.mark_changed(run.stage.id)

    # --- hand-over, recovery and permanent failure -------------------------------------------------------------

    def interrupt(self, at: datetime) -> None:
        """Hand the execution over: its running attempts are reverted and run again in another worker."""
        for stage_id in self.running:
            self._attempt_interrupted(stage_id, at)
        self.record_event(EventType.EXECUTION_RELEASED, "Handed over to another worker", at)

    def fail_unreadable(self, reason: str, at: datetime) -> None:
        """Fail an execution permanently because its stored data is unreadable.

        An ended execution keeps its state unless it was being rolled back. From now on every command is refused.
        """
        self.unreadable_reason = reason
        if self.goal is Goal.ROLLBACK:
            self.goal, reason = Goal.RUN, f"the rollback cannot be finished: {reason}"
            if self.status in TERMINAL:
                self.error = {"message": reason, "class": ErrorClass.CONFIGURATION.value, "stage_id": None}
                if self.status is not ExecutionStatus.FAILED:
                    self.move(ExecutionStatus.FAILED)
                self.record_event(EventType.ROLLBACK_FAILED, f"Rollback failed: {reason}", at, Level.ERROR)
        if self.status not in TERMINAL:
            self.fail_permanently(reason, at, ErrorClass.CONFIGURATION)

    def fail_permanently(self, reason: str, at: datetime, error_class: ErrorClass = ErrorClass.CRASH) -> None:
        """Fail the execution permanently without running further stages."""
        self.error = {"message": reason, "class": error_class.value, "stage_id": None}
        if self.status is ExecutionStatus.PENDING:
            self.started_at = at
        self.cancel_unstarted_if_ending(at)

    def cancel_unstarted_if_ending(self, at: datetime) -> None:
        """Cancel the stages that have not started if the execution is failing or stopping."""
        if self.error is not None or self.stopping is not None:
            self.cancel_unstarted(at)
            self.end_if_done(at)

    def recompute_ready_stages(self) -> None:
        """Recompute the ready stages from the states of all stages."""
        self.ready.clear()
        self.retries.clear()
        self.unfinished_count = sum(run.status not in STAGE_ENDED for run in self.stages.values())
        self.completed = sum(run.status is S.COMPLETED for run in self.stages.values())
        for stage_id, run in self.stages.items():
            run.missing = sum(self.stages[i].status is not S.COMPLETED for i in run.stage.dependencies)
            if run.status is S.PENDING and run.missing == 0:
                self.ready.append(stage_id)
            elif run.status is S.WAITING and run.retry_at is not None:
                self.retries[stage_id] = run.retry_at
