"""Rollback: undoes the external effects of an execution's stages, in reverse order of their start.

The undo of a stage is an attempt like any other, with the stage's own timeout and retries. An undo can be repeated, so
a crash in the middle does no harm. A stage that cannot be undone does not prevent the others from being undone.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from flexiroaster.engine.state_machine.retry_policy import backoff, may_retry
from flexiroaster.engine.state_machine.state import ExecutionState, Rollback, StageRun
from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.model.pipeline import StageType

__all__ = ["begin_rollback", "stages_to_undo", "start_undo", "start_undo_when_idle", "undo_completed", "undo_failed"]

_UNDOABLE = frozenset({StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED})
_NEVER = datetime.min.replace(tzinfo=UTC)


def begin_rollback(execution: ExecutionState, reason: str, at: datetime) -> None:
    """Start a rollback: cancel unfinished stages first, then undo the effects of the stages."""
    execution.goal = Goal.ROLLBACK
    execution.stopping = execution.stopping or reason
    execution.fail_held_stages()
    execution.prepare_interrupt()
    execution.cancel_unstarted(at)
    execution.record_event(EventType.ROLLBACK_STARTED, f"Rollback started: {reason}", at, Level.WARNING)
    start_undo_when_idle(execution, at)


def start_undo_when_idle(execution: ExecutionState, at: datetime) -> None:
    """Start undoing once no stage runs any more: a stage that just ended may have had an effect."""
    if execution.goal is Goal.ROLLBACK and execution.rollback is None and not execution.running:
        execution.cancel_unstarted(at)
        execution.rollback = stages_to_undo(execution)
        _finish_if_done(execution, at)


def stages_to_undo(execution: ExecutionState) -> Rollback:
    """Collect the stages to undo, last started first: every output stage that was ever started.

    A failed or cancelled stage may have had an effect without reporting it; its undo finds out.
    """
    started = [
        run
        for run in execution.stages.values()
        if run.stage.type is StageType.OUTPUT and run.started_at is not None and run.status in _UNDOABLE
    ]
    started.sort(key=lambda run: run.started_at or _NEVER, reverse=True)
    execution.retries.update({run.stage.id: run.retry_at for run in started if run.retry_at is not None})
    return Rollback(deque(run.stage.id for run in started))


def start_undo(execution: ExecutionState, rollback: Rollback, at: datetime) -> StageRun:
    """Start to undo the next stage and return it."""
    run = execution.stages[rollback.todo[0]]
    rollback.attempt += 1
    rollback.active = True
    _wait_until(execution, run, None)
    attempt = f" (attempt {rollback.attempt})" if rollback.attempt > 1 else ""
    message = f"Undoing stage: {run.stage.title}{attempt}"
    execution.record_event(EventType.STAGE_UNDOING, message, at, stage_id=run.stage.id)
    return run


def undo_completed(execution: ExecutionState, rollback: Rollback, message: str, at: datetime) -> None:
    """Record that the stage's effect is undone."""
    stage_id = rollback.next()
    run = execution.stages[stage_id]
    execution.completed -= run.status is StageStatus.COMPLETED
    run.move(StageStatus.ROLLED_BACK)
    execution.mark_changed(stage_id)
    execution.record_event(EventType.STAGE_UNDONE, f"Stage undone: {run.stage.title}: {message}", at, stage_id=stage_id)
    _finish_if_done(execution, at)


def undo_failed(execution: ExecutionState, rollback: Rollback, error: dict[str, Any], at: datetime) -> None:
    """Process a failed undo: schedule a retry, or leave the stage for manual undo."""
    stage_id = rollback.todo[0]
    run = execution.stages[stage_id]
    rollback.active = False
    if rollback.interrupted:  # it starts again and does not count
        rollback.interrupted, rollback.attempt = False, rollback.attempt - 1
        return
    data: dict[str, Any] = {"error": error}
    if may_retry(run.stage, ErrorClass(error["class"]), rollback.attempt):
        delay = backoff(run.stage, rollback.attempt, retry_after=error.get("retry_after"))
        _wait_until(execution, run, at + timedelta(seconds=delay))
        message = f"Undoing stage failed, next attempt in {delay:.1f} s: {run.stage.title}: {error['message']}"
        data["delay"] = delay
        execution.record_event(EventType.STAGE_UNDO_FAILED, message, at, Level.WARNING, stage_id, data)
        return
    message = f"Undoing stage failed: {run.stage.title}: {error['message']}"
    rollback.next()
    rollback.left.append({"stage_id": stage_id, "message": error["message"]})
    execution.record_event(EventType.STAGE_UNDO_FAILED, f"{message}; undo it manually", at, Level.ERROR, stage_id, data)
    _finish_if_done(execution, at)


def _wait_until(execution: ExecutionState, run: StageRun, at: datetime | None) -> None:
    """Set the time of the next undo; None means now."""
    if at is not None:
        execution.retries[run.stage.id] = at
    if run.retry_at != at:
        run.retry_at = at
        execution.mark_changed(run.stage.id)


def _finish_if_done(execution: ExecutionState, at: datetime) -> None:
    """End the rollback once no stage is left to undo; the execution fails if an undo failed."""
    if execution.rollback is None or execution.rollback.todo or execution.running:
        return
    left, execution.rollback, execution.goal = execution.rollback.left, None, Goal.RUN
    execution.completed_at = execution.completed_at or at
    if not left:
        if "left" in (execution.error or {}):  # error of an earlier rollback, which is now done
            execution.error = None
        execution.move(ExecutionStatus.ROLLED_BACK)
        execution.record_event(EventType.ROLLBACK_COMPLETED, "Rolled back: every effect is undone", at, Level.WARNING)
        return
    manual = "; ".join(f"stage {item['stage_id']!r}: {item['message']}" for item in left)
    message = f"The rollback is incomplete; undo manually: {manual}"
    execution.error = {
        "message": message,
        "class": ErrorClass.UNKNOWN.value,
        "stage_id": left[0]["stage_id"],
        "left": left,
    }
    if execution.status is not ExecutionStatus.FAILED:
        execution.move(ExecutionStatus.FAILED)
    execution.record_event(EventType.ROLLBACK_FAILED, message, at, Level.ERROR)
