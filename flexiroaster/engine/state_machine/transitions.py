"""Transitions that several events of an execution share: pause, hold, skip, cancel, and the end of an execution."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from flexiroaster.engine.state_machine.state import ExecutionState, StageRun
from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, Goal, StageStatus

__all__ = ["ExecutionTransitions", "to_the_second"]

S = StageStatus


class ExecutionTransitions(ExecutionState):
    """An execution state with the transitions that its events, the failure policy and a rollback share."""

    __slots__ = ()

    def pause(self, reason: str, at: datetime, *, interrupt: bool = False, deadline: datetime | None = None) -> None:
        """Pause the execution: no stage starts until `resume`.

        Running stages may finish; with `interrupt` they are ended and run again later. When `deadline` passes, the
        execution is stopped (`end_pause`).
        """
        self.move(ExecutionStatus.PAUSED)
        self.pause_deadline = deadline
        if interrupt:
            self.prepare_interrupt()
        told = "running stages are interrupted" if interrupt else "running stages may finish"
        if deadline is not None:
            told += f"; it will be stopped at {to_the_second(deadline)} unless it is resumed before"
        self.tell(EventType.EXECUTION_PAUSED, f"Execution paused: {reason}; {told}", at, Level.WARNING)

    def hold(self, run: StageRun) -> None:
        """Keep a failed stage until a user decides about it; the stages that depend on it wait."""
        self.unfinished_count -= 1
        self.touch(run.stage.id)

    def fail_held_stages(self) -> None:
        """Set the execution's error to that of the first held stage: the held stages will not run again."""
        if held := self.held:
            self.error = held[0].failure(held[0].error or {})

    def prepare_interrupt(self) -> None:
        """Mark the running attempts as interrupted, so that their end does not count."""
        self.interrupted.update(self.running)
        if self.rollback is not None:
            self.rollback.interrupted = self.rollback.active

    def release_followers(self, run: StageRun, at: datetime) -> None:
        """Make the followers of an ended stage ready, or skip them recursively if the stage did not complete."""
        ended = deque([run])
        while ended:
            run = ended.popleft()
            self.unfinished_count -= 1
            for follower_id in self.followers[run.stage.id]:
                follower = self.stages[follower_id]
                follower.missing -= 1
                if follower.status is not S.PENDING:
                    continue
                if run.status is not S.COMPLETED:
                    self.skip(follower, f"its dependency {run.stage.id!r} was {run.status}", at)
                    ended.append(follower)
                elif follower.missing == 0:
                    self.ready.append(follower_id)
        self.settle(at)

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
        """Cancel one stage. Only valid while no stage starts any more, because its followers must end as well."""
        run.move(S.CANCELLED)
        run.completed_at, run.retry_at = at, None
        self.retries.pop(run.stage.id, None)
        self.unfinished_count -= 1
        self.record_stage_event(
            run, EventType.STAGE_CANCELLED, f"Stage cancelled: {run.stage.title}", at, Level.WARNING
        )

    def settle(self, at: datetime) -> None:
        """End the execution once every stage has ended."""
        if self.unfinished_count > 0 or self.status in TERMINAL or self.goal is Goal.ROLLBACK or self.held:
            return
        self.completed_at = at
        if self.error is not None:
            self.move(ExecutionStatus.FAILED)
            self.tell(EventType.EXECUTION_FAILED, f"Execution failed: {self.error['message']}", at, Level.ERROR)
        elif self.stopping is not None:
            self.move(ExecutionStatus.CANCELLED)
            self.tell(EventType.EXECUTION_CANCELLED, f"Execution cancelled: {self.stopping}", at, Level.WARNING)
        else:
            self.move(ExecutionStatus.COMPLETED)
            self.tell(EventType.EXECUTION_COMPLETED, self._summary(), at)

    def _summary(self) -> str:
        left = [run.stage.id for run in self.stages.values() if run.status is not S.COMPLETED]
        told = f"; not completed: {', '.join(left)}" if left else ""
        return f"Execution completed: {self.completed} of {len(self.stages)} stages{told}"


def to_the_second(at: datetime) -> str:
    """Format a time for a message."""
    return at.isoformat(sep=" ", timespec="seconds")
