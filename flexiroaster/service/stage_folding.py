"""The stage part of the history projection: learns usual durations, volumes and retry outcomes from ended executions.

It runs in the transaction that folds the runs. It also records the outcomes of decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.safety.alarms import Alarms
from flexiroaster.safety.anomaly.alarms import AnomalyKind
from flexiroaster.safety.anomaly.stages import StageEnd, StagesState
from flexiroaster.safety.gate import RiskLevel
from flexiroaster.safety.policy import Action
from flexiroaster.safety.retry_odds import RetryOdds
from flexiroaster.service.safety.insight_messages import ANOMALIES, HIGH_RISK, anomaly_cause, anomaly_of_event
from flexiroaster.store import risk_states, stage_history
from flexiroaster.store.risk_states import ALARMS, ODDS, STAGES
from flexiroaster.store.safety import decisions, insights
from flexiroaster.store.safety.decisions import DecisionRow
from flexiroaster.store.safety.history import PastRun
from flexiroaster.store.stage_history import EndedStage

__all__ = ["fold_stages"]

SUCCEEDED, FAILED, STOPPED = "succeeded", "failed", "stopped"


def fold_stages(connection: Connection, runs: Sequence[PastRun]) -> None:
    """Learn from the stages of these executions, oldest end first; record and resolve insights about anomalies."""
    stages = stage_history.ended_stages(connection, runs)
    states = _States.load(connection, runs)
    for run in runs:
        ends = [_end(stage) for stage in stages[run.execution_id]]
        states.pipelines[run.pipeline_id].execution_ended(ends)
    _join_outcomes(connection, runs, stages, states)
    told = stage_history.told_anomalies(connection, _suspicious(stages))
    _count_alarms(connection, runs, told, states.alarms)
    states.save(connection)
    _note_and_resolve(connection, runs, stages, told, states)


@dataclass(slots=True)
class _States:
    pipelines: dict[str, StagesState]
    odds: RetryOdds = field(default_factory=RetryOdds)
    alarms: Alarms = field(default_factory=Alarms)

    @classmethod
    def load(cls, connection: Connection, runs: Sequence[PastRun]) -> _States:
        names = {run.pipeline_id for run in runs}
        stored = risk_states.load(connection, {(STAGES, name) for name in names} | {(ODDS, ""), (ALARMS, "")})
        known = {name: stored.get((STAGES, name)) for name in names}
        return cls(
            {name: StagesState() if state is None else StagesState.from_json(state) for name, state in known.items()},
            RetryOdds.from_json(stored[ODDS, ""]) if (ODDS, "") in stored else RetryOdds(),
            Alarms.from_json(stored[ALARMS, ""]) if (ALARMS, "") in stored else Alarms(),
        )

    def save(self, connection: Connection) -> None:
        own = {(STAGES, name): state.to_json() for name, state in self.pipelines.items()}
        everywhere = {(ODDS, ""): self.odds.to_json(), (ALARMS, ""): self.alarms.to_json()}
        risk_states.save(connection, {**own, **everywhere})


def _end(stage: EndedStage) -> StageEnd:
    completed = stage.status is StageStatus.COMPLETED
    return StageEnd(stage.stage_id, stage.attempt, completed, stage.duration_s, stage.rows, stage.bytes)


def _suspicious(stages: Mapping[str, Sequence[EndedStage]]) -> list[str]:
    """Return the executions that may have anomaly events; the events of the others are not read."""
    return [i for i, ended in stages.items() if any(stage.is_anomaly or stage.attempt > 1 for stage in ended)]


def _join_outcomes(
    connection: Connection, runs: Sequence[PastRun], stages: Mapping[str, Sequence[EndedStage]], states: _States
) -> None:
    by_id = {run.execution_id: run for run in runs}
    made = decisions.open_ones(connection, list(by_id))
    ended = {(stage.execution_id, stage.stage_id): stage for each in stages.values() for stage in each}
    outcomes: dict[str, str] = {}
    for decision in made:
        run = by_id[decision.execution_id]
        if decision.taken != Action.RETRY:
            outcomes[decision.id] = ExecutionStatus.ROLLED_BACK if run.rolled_back else run.status
            continue
        outcome = _of_retry(decision, made, ended.get((decision.execution_id, decision.stage_id or "")))
        outcomes[decision.id] = outcome
        if outcome != STOPPED and decision.error_class is not None:
            before, succeeded = ErrorClass(decision.error_class), outcome == SUCCEEDED
            states.pipelines[run.pipeline_id].repeated(before, succeeded=succeeded)
            states.odds.add(before, succeeded=succeeded)
    decisions.set_outcomes(connection, outcomes, utc_now())


def _of_retry(decision: DecisionRow, made: Sequence[DecisionRow], stage: EndedStage | None) -> str:
    """Return whether the next attempt succeeded; `stopped` if there was none, or it was interrupted."""
    following = (decision.attempt or 0) + 1
    for later in made:
        same = (later.execution_id, later.stage_id) == (decision.execution_id, decision.stage_id)
        if same and later.seq > decision.seq and later.error_class is not None:
            return FAILED if later.attempt == following else STOPPED
    completed = stage is not None and stage.status in {StageStatus.COMPLETED, StageStatus.ROLLED_BACK}
    return SUCCEEDED if stage is not None and completed and stage.attempt == following else STOPPED


def _count_alarms(
    connection: Connection, runs: Sequence[PastRun], told: Mapping[str, list[dict[str, object]]], alarms: Alarms
) -> None:
    warned = stage_history.at_level(connection, [run.execution_id for run in runs], RiskLevel.HIGH)
    for run in runs:
        kinds = {str(anomaly["kind"]) for anomaly in told.get(run.execution_id, ()) if anomaly.get("alert")}
        if run.execution_id in warned:
            kinds.add(HIGH_RISK)
        if run.counts:
            alarms.ended(sorted(kinds), completed=run.status == ExecutionStatus.COMPLETED)


def _note_and_resolve(
    connection: Connection,
    runs: Sequence[PastRun],
    stages: Mapping[str, Sequence[EndedStage]],
    told: Mapping[str, list[dict[str, object]]],
    states: _States,
) -> None:
    """Record one insight per cause, and resolve it with the first run in which the cause is gone."""
    at: datetime = utc_now()
    open_causes = insights.open_causes(connection, ANOMALIES)
    for run in runs:
        for data in told.get(run.execution_id, ()):
            finding = anomaly_of_event(run.pipeline_id, run.execution_id, data)
            if finding is not None:
                insights.note(connection, finding, at)
                open_causes.add(finding.cause)
        normal = [s for s in stages[run.execution_id] if s.status is StageStatus.COMPLETED and not s.is_anomaly]
        gone = {anomaly_cause(k, run.pipeline_id, s.stage_id) for s in normal for k in _OF_A_STAGE} & open_causes
        if not states.pipelines[run.pipeline_id].retries.piling:
            gone |= {anomaly_cause(AnomalyKind.RETRIES, run.pipeline_id, None)} & open_causes
        insights.resolve(connection, sorted(gone), at)
        open_causes -= gone


_OF_A_STAGE = (AnomalyKind.LATE, AnomalyKind.VOLUME)
