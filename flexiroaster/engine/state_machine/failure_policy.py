"""Failure policy: decides what to do after a failed attempt or an anomaly, records the decision and carries it out.

The safety engine decides. If it only records, or is absent, the stage's own rules apply: retry while the error is
retryable and attempts are left; then skip the stage if it is not critical, or else fail the execution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from flexiroaster.engine.state_machine.retry_policy import backoff, worth_retrying
from flexiroaster.engine.state_machine.rollback import begin_rollback
from flexiroaster.engine.state_machine.state import StageRun
from flexiroaster.engine.state_machine.transitions import ExecutionTransitions
from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.model.pipeline import StageType
from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.policy import Action, Situation
from flexiroaster.store.journal.transitions import NewDecision, decision_id

__all__ = ["after_anomaly", "after_failure", "record_failure_while_failing"]


Data = dict[str, Any]


def after_failure(execution: ExecutionTransitions, run: StageRun, error: Data, at: datetime) -> None:
    """Decide what to do about a failed attempt, and carry it out."""
    error_class = ErrorClass(error["class"])
    usual = _usual(run, error_class)
    taken, told = _decided(execution, run, error_class, usual, at)
    data = {"error": error, **told}
    _CARRY_OUT[taken](execution, run, data, at)


def record_failure_while_failing(execution: ExecutionTransitions, run: StageRun, error: Data, at: datetime) -> None:
    """Record the failure of a stage while the execution is already failing, so there is nothing to decide."""
    _skip(execution, run, {"error": error}, at)


def after_anomaly(execution: ExecutionTransitions, run: StageRun, anomaly: Anomaly, at: datetime) -> None:
    """Record an anomaly, and decide whether the execution continues."""
    told: Data = {}
    taken = Action.CONTINUE
    if anomaly.alert and execution.status is ExecutionStatus.RUNNING and execution.stopping is None:
        taken, told = _decided(execution, run, None, Action.CONTINUE, at)
    if anomaly.kind is not AnomalyKind.RETRIES:
        run.is_anomaly = True
    message = f"{_TITLES[anomaly.kind]}: {run.stage.title}: {anomaly.message}"
    execution.record_stage_event(run, EventType.STAGE_ANOMALY, message, at, Level.WARNING, {**asdict(anomaly), **told})
    if taken is Action.PAUSE:
        execution.pause(f"{told['decision']['reason']}, after an anomaly at high risk", at)


_TITLES = {
    AnomalyKind.LATE: "Stage is late",
    AnomalyKind.VOLUME: "Unusual output volume",
    AnomalyKind.RETRIES: "Unusually many retries",
    AnomalyKind.ERROR_BURST: "Error rate spike",
}


def _usual(run: StageRun, error_class: ErrorClass) -> Action:
    """The action that the stage's own rules prescribe."""
    if worth_retrying(run.stage, error_class, run.attempt):
        return Action.RETRY
    return Action.TERMINATE if run.stage.is_critical else Action.SKIP


def _decided(
    execution: ExecutionTransitions, run: StageRun, error_class: ErrorClass | None, usual: Action, at: datetime
) -> tuple[Action, Data]:
    """Return the action to take, and the decision's data for the next event; record the decision for that event."""
    watch = execution.watch
    decision = None if watch is None else watch.decide(_situation(execution, run, error_class))
    if watch is None or decision is None:
        return usual, {}
    taken = decision.action if watch.acts else usual
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
    told = {
        "id": decision_id(execution.id, seq),
        "action": decision.action.value,
        "taken": taken.value,
        "reason": decision.reason,
        "explanation": decision.explanation,
    }
    return taken, {"decision": told}


def _situation(execution: ExecutionTransitions, run: StageRun, error_class: ErrorClass | None) -> Situation:
    watch = execution.watch
    if watch is None:
        raise AssertionError("only a watched execution has a situation")
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


def _wait_for_retry(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    error = data["error"]
    delay = backoff(run.stage, run.attempt, retry_after=error.get("retry_after"))
    run.move(StageStatus.WAITING)
    run.retry_at = execution.retries[run.stage.id] = at + timedelta(seconds=delay)
    left = (run.stage.max_retries or 0) - run.attempt + 1
    message = f"Stage failed, next attempt in {delay:.1f} s ({left} left): {run.stage.title}: {error['message']}"
    execution.record_stage_event(run, EventType.STAGE_RETRYING, message, at, Level.WARNING, {**data, "delay": delay})


def _fail(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    """Fail the execution. Running stages may finish, for use by a later retry; no other stage starts."""
    _tell_failed(execution, run, data, at)
    execution.error = run.failure(data["error"])
    execution.skip_unstarted(f"the critical stage {run.stage.id!r} failed", at)
    execution.release_followers(run, at)


def _skip(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    """Skip the stages that depend on this one; the other stages continue."""
    _tell_failed(execution, run, data, at)
    execution.release_followers(run, at)


def _hold(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    """Pause the execution instead of failing it: a resume runs the stage again, or a user decides otherwise."""
    _tell_failed(execution, run, data, at)
    execution.hold(run)
    if execution.status is ExecutionStatus.RUNNING:
        execution.pause(f"stage {run.stage.id!r} failed: {data['decision']['reason']}", at)


def _roll_back(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    """Roll the execution back; it stays paused until all effects are undone."""
    _tell_failed(execution, run, data, at)
    execution.hold(run)
    reason = f"stage {run.stage.id!r} failed: {data['decision']['reason']}"
    if execution.status is ExecutionStatus.RUNNING:
        execution.pause(reason, at, interrupt=True)
    begin_rollback(execution, reason, at)


_CARRY_OUT: dict[Action, Callable[[ExecutionTransitions, StageRun, Data, datetime], None]] = {
    Action.RETRY: _wait_for_retry,
    Action.SKIP: _skip,
    Action.PAUSE: _hold,
    Action.ROLLBACK: _roll_back,
    Action.TERMINATE: _fail,
}


def _tell_failed(execution: ExecutionTransitions, run: StageRun, data: Data, at: datetime) -> None:
    run.move(StageStatus.FAILED)
    tried = f" after {run.attempt} attempts" if run.attempt > 1 else ""
    message = f"Stage failed{tried}: {run.stage.title}: {data['error']['message']}"
    execution.record_stage_event(run, EventType.STAGE_FAILED, message, at, Level.ERROR, data)
