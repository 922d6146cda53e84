"""Restores the state machine of an execution from its rows, for its next driver."""

from __future__ import annotations

from datetime import UTC, datetime

from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.engine.state_machine.rollback import undo_when_quiet
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, Goal, StageStatus
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.store.recovery import Stored

__all__ = ["restore"]

_NEVER = datetime.min.replace(tzinfo=UTC)


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
        _teach(watch, execution)
    execution.line_up()
    if lost_by is not None:
        message = f"Execution taken over because the lease of its worker expired: {lost_by}"
        execution.tell(EventType.EXECUTION_CLAIMED, message, at, Level.WARNING, data={"lost_by": lost_by})
    _take_back(execution, at)
    if stored.goal is Goal.ROLLBACK:
        execution.stopping = "rollback"
        undo_when_quiet(execution, at)
    elif stored.status in {ExecutionStatus.RUNNING, ExecutionStatus.PAUSED}:
        execution.finish_up(at)
    return execution


def _teach(watch: Watch, execution: Execution) -> None:
    ended = [end for run in execution.stages.values() if (end := run.end()) is not None]
    for end in sorted(ended, key=lambda end: execution.stages[end.stage_id].completed_at or _NEVER):
        watch.stage_completed(end)
    watch.abnormal = any(run.is_anomaly for run in execution.stages.values())


def _take_back(execution: Execution, at: datetime) -> None:
    """Revert the attempts of the former driver: their results are unknown, so they do not count."""
    for stage_id, run in execution.stages.items():
        if run.status is not StageStatus.RUNNING:
            continue
        run.interrupt()
        execution.touch(stage_id)
        message = f"Stage will run again because its worker was lost: {run.stage.title}"
        execution.tell(EventType.STAGE_INTERRUPTED, message, at, Level.WARNING, stage_id)
        execution.ready.append(stage_id)
