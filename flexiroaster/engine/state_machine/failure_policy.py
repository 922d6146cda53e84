"""Failure policy: decides what to do after a failed attempt or an anomaly, records the decision and carries it out.

The safety engine decides. If it only records, or is absent, the stage's own rules apply: retry while the error is
retryable and attempts are left; then skip the stage if it is not critical, or else fail the execution.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from flexiroaster.engine.state_machine.retry_policy import backoff, may_retry
from flexiroaster.engine.state_machine.rollback import begin_rollback
from flexiroaster.engine.state_machine.state import ExecutionState, StageRun
from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.model.pipeline import StageType
from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.anomaly.watch import Watch
from flexiroaster.safety.policy import Action, Situation
from flexiroaster.store.journal.transitions import NewDecision, decision_id

__all__ = ["after_anomaly", "after_failure", "record_failure"]


Data = dict[str, Any]


def after_failure(execution: ExecutionState, run: StageRun, error: Data, at: datetime) -> None:
    """Decide what to do about a failed attempt, and carry it out."""
    error_class = ErrorClass(error["class"])
    action, data = _decide(execution, run, error_class, _default_action(run, error_class), at)
    data = {"error": error, **data}
    if action is Action.RETRY:
        _wait_for_retry(execution, run, data, at)
        return
    record_failure(execution, run, data, at)
    if action is Action.SKIP:  # only the stages that depend on this one; the other stages continue
        execution.release_dependents(run, at)
    elif action is Action.TERMINATE:  # running stages may finish, for use by a later retry; no other stage starts
        execution.error = run.failure(error)
        execution.skip_unstarted(f"the critical stage {run.stage.id!r} failed", at)
        execution.release_dependents(run, at)
    else:  # pause instead of failing: a resume runs the stage again, or a user decides otherwise
        reason = f"stage {run.stage.id!r} failed: {data['decision']['reason']}"
        rollback = action is Action.ROLLBACK  # stays paused until all effects are undone
        execution.hold_failed_stage(run)
        if execution.status is ExecutionStatus.RUNNING:
            execution.pause(reason, at, interrupt=rollback)
        if rollback:
            begin_rollback(execution, reason, at)


def record_failure(execution: ExecutionState, run: StageRun, data: Data, at: datetime) -> None:
    """Mark a stage as failed, with an event."""
    run.move(StageStatus.FAILED)
    attempts = f" after {run.attempt} attempts" if run.attempt > 1 else ""
    message = f"Stage failed{attempts}: {run.stage.title}: {data['error']['message']}"
    execution.record_stage_event(run, EventType.STAGE_FAILED, message, at, Level.ERROR, data)


def _wait_for_retry(execution: ExecutionState, run: StageRun, data: Data, at: datetime) -> None:
    error = data["error"]
    delay = backoff(run.stage, run.attempt, retry_after=error.get("retry_after"))
    run.move(StageStatus.WAITING)
    run.retry_at = execution.retries[run.stage.id] = at + timedelta(seconds=delay)
    left = (run.stage.max_retries or 0) - run.attempt + 1
    message = f"Stage failed, next attempt in {delay:.1f} s ({left} left): {run.stage.title}: {error['message']}"
    execution.record_stage_event(run, EventType.STAGE_RETRYING, message, at, Level.WARNING, {**data, "delay": delay})


def after_anomaly(execution: ExecutionState, run: StageRun, anomaly: Anomaly, at: datetime) -> None:
    """Record an anomaly, and decide whether the execution continues."""
    action, data = Action.CONTINUE, asdict(anomaly)
    if anomaly.alert and execution.status is ExecutionStatus.RUNNING and execution.stopping is None:
        action, decision = _decide(execution, run, None, action, at)
        data |= decision
    if anomaly.kind is not AnomalyKind.RETRIES:
        run.is_anomaly = True
    message = f"{_TITLES[anomaly.kind]}: {run.stage.title}: {anomaly.message}"
    execution.record_stage_event(run, EventType.STAGE_ANOMALY, message, at, Level.WARNING, data)
    if action is Action.PAUSE:
        execution.pause(f"{data['decision']['reason']}, after an anomaly at high risk", at)


_TITLES = {
    AnomalyKind.LATE: "Stage is late",
    AnomalyKind.VOLUME: "Unusual output volume",
    AnomalyKind.RETRIES: "Unusually many retries",
    AnomalyKind.ERROR_BURST: "Error rate spike",
}


def _default_action(run: StageRun, error_class: ErrorClass) -> Action:
    """The action that the stage's own rules prescribe."""
    if may_retry(run.stage, error_class, run.attempt):
        return Action.RETRY
    return Action.TERMINATE if run.stage.is_critical else Action.SKIP


def _decide(
    execution: ExecutionState, run: StageRun, error_class: ErrorClass | None, default: Action, at: datetime
) -> tuple[Action, Data]:
    """Return the action to take, and the decision's data for the next event; record the decision for that event."""
    watch = execution.watch
    decision = None if watch is None else watch.decide(_situation(execution, watch, run, error_class))
    if watch is None or decision is None:
        return default, {}
    taken = decision.action if watch.acts else default
    seq = execution.seq + 1
    execution.decisions.append(
        NewDecision(
            seq=seq,
            at=at,
            stage_id=run.stage.id,
            attempt=run.attempt,
            error_class=None if error_class is None else error_class.value,
            action=decision.action.value,
            taken=taken.value,
            mode=watch.rules.mode.value,
            data=decision.data(),
        )
    )
    data = {
        "id": decision_id(execution.id, seq),
        "action": decision.action.value,
        "taken": taken.value,
        "reason": decision.reason,
        "explanation": decision.explanation,
    }
    return taken, {"decision": data}


def _situation(execution: ExecutionState, watch: Watch, run: StageRun, error_class: ErrorClass | None) -> Situation:
    effects = [
        (other.output or {}).get("effect") or {}
        for other in execution.stages.values()
        if other.stage.type is StageType.OUTPUT and other.status is StageStatus.COMPLETED
    ]
    return Situation(
        error_class=error_class,
        attempts_left=max(0, (run.stage.max_retries or 0) - run.attempt + 1),
        critical=run.stage.is_critical,
        effects_made=bool(effects),
        anomaly=watch.abnormal,
        risk=watch.risk,
        retry_odds=None if error_class is None else watch.retry_odds(error_class),
        undoable=all(effect.get("undoable", True) for effect in effects),
        attended=watch.rules.pause,
        may_roll_back=watch.rules.rollback,
        retry_on=frozenset(run.stage.retry_on),
        costs=watch.rules.costs,
    )
