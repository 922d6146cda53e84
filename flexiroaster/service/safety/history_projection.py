"""The history projection: folds finished runs into the risk states, each run once, in order and in batches.

It also learns usual durations, volumes and retry outcomes from the stages of ended executions, and records and resolves
insights. It is independent of the driver, so it adds no cost to execution state changes. Readers catch up first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection

from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.safety.anomaly.alarms import Alarms, AnomalyKind, ErrorBurst
from flexiroaster.safety.anomaly.stages import StageEnd, StagesState
from flexiroaster.safety.policy import Action, RetryOdds, RiskLevel
from flexiroaster.safety.risk.factors import Ledger, Past
from flexiroaster.safety.risk.state import Ending, JsonState, Outcome, PipelineState, Population, group_of
from flexiroaster.service.safety.insight_messages import (
    ANOMALIES,
    HIGH_RISK,
    anomaly_cause,
    anomaly_of_event,
    burst,
    resolved_causes,
)
from flexiroaster.store.database import Database
from flexiroaster.store.safety import decisions, history, insights, risk
from flexiroaster.store.safety.decisions import DecisionRow
from flexiroaster.store.safety.history import EndedStage, PastRun
from flexiroaster.store.safety.risk import ALARMS, BURST, GROUP, INSTALLATION, ODDS, PIPELINE, STAGES, Key, Progress

__all__ = ["BATCH", "Folded", "check_progress", "ending_of", "fold", "refold_all"]

BATCH = 500
"""The number of runs folded per transaction; on SQLite, the transaction blocks all other writers."""

SUCCEEDED, FAILED, STOPPED = "succeeded", "failed", "stopped"
"""The outcomes of a decision to retry."""


def check_progress(database: Database, known: Progress | None) -> tuple[Progress, bool]:
    """Return the progress of the states, and whether an execution has ended since. Raises StoreError.

    `known` is the last progress seen; with it, the call costs a single statement.
    """
    with database.read() as connection:
        since = known or risk.progress(connection)
        return risk.progress_and(connection, history.anything_unfolded(since.folded_until))


@dataclass(frozen=True, slots=True)
class Folded:
    """The result of a fold: the number of executions, the progress of the states, and the pasts of their pipelines."""

    executions: int
    progress: Progress
    pasts: Mapping[str, Past]


def fold(database: Database, error_threshold: int, limit: int = BATCH) -> Folded:
    """Fold up to `limit` newly finished executions. No two processes fold the same execution. Raises StoreError.

    If a machine crash undoes the fold, the same executions are folded again.
    """
    pasts: Mapping[str, Past] = {}
    with database.write_without_sync() as connection:
        before = now = risk.locked_progress(connection)
        runs = history.unfolded(connection, before.folded_until, limit)
        if runs:
            states = _States.load(connection, runs)
            _fold_stages(connection, runs, states)
            history.add(connection, runs)
            findings = states.fold(runs, error_threshold)
            risk.save_states(connection, {**states.of_history(), **states.of_stages()})
            pasts = {name: states.ledger.past(name) for name in states.ledger.pipelines}
            now = risk.advance(connection, before, runs[-1].finished_at, sum(run.counts for run in runs))
            insights.resolve(connection, resolved_causes(runs), utc_now())
            for finding in findings:
                insights.record(connection, finding, utc_now())
    return Folded(len(runs), now, pasts)


def refold_all(connection: Connection, error_threshold: int) -> int:
    """Reset the states and refold the whole history (after an import); return the number of runs. Adds no insights."""
    before, states = risk.forget_states(connection), _States()
    folded, counted = 0, 0
    for run in history.in_order(connection):
        states.fold([run], error_threshold)
        folded, counted = folded + 1, counted + run.counts
    risk.save_states(connection, states.of_history())
    risk.advance(connection, before, None, counted)
    return folded


def ending_of(run: PastRun) -> Ending:
    """Convert a past run to the safety engine's `Ending`."""
    return Ending(run.finished_at.timestamp(), Outcome(run.status), run.duration_s)


# --- states ---

S = TypeVar("S", bound=JsonState)


@dataclass(slots=True)
class _States:
    """The states affected by a batch of runs; new pipelines and groups start with empty ones."""

    ledger: Ledger = field(default_factory=Ledger)
    bursts: defaultdict[str, ErrorBurst] = field(default_factory=lambda: defaultdict(ErrorBurst))
    stages: defaultdict[str, StagesState] = field(default_factory=lambda: defaultdict(StagesState))
    odds: RetryOdds = field(default_factory=RetryOdds)
    alarms: Alarms = field(default_factory=Alarms)

    @classmethod
    def load(cls, connection: Connection, runs: Sequence[PastRun]) -> _States:
        keys: set[Key] = {(INSTALLATION, ""), (ODDS, ""), (ALARMS, "")}
        for run in runs:
            keys |= {(PIPELINE, run.pipeline_id), (STAGES, run.pipeline_id), (GROUP, group_of(run.pipeline_id))}
            if name := _burst_name(run):
                keys.add((BURST, name))
        stored = risk.load_states(connection, keys)

        def known(scope: str, kind: type[S]) -> dict[str, S]:
            return {name: kind.from_json(state) for (other, name), state in stored.items() if other == scope}

        states = cls(odds=known(ODDS, RetryOdds).get("", RetryOdds()), alarms=known(ALARMS, Alarms).get("", Alarms()))
        states.ledger.installation = known(INSTALLATION, Population).get("", Population())
        states.ledger.pipelines.update(known(PIPELINE, PipelineState))
        states.ledger.groups.update(known(GROUP, Population))
        states.bursts.update(known(BURST, ErrorBurst))
        states.stages.update(known(STAGES, StagesState))
        return states

    def fold(self, runs: Iterable[PastRun], error_threshold: int) -> list[insights.Finding]:
        """Add runs, oldest end first, and return their findings."""
        found = []
        for run in runs:
            self.ledger.add(run.pipeline_id, ending_of(run))
            name = _burst_name(run)
            anomaly = name and self.bursts[name].error(run.finished_at.timestamp(), error_threshold)
            if anomaly:
                found.append(burst(run, anomaly))
        return found

    def of_history(self) -> dict[Key, dict[str, Any]]:
        """Return the states that can be folded again from the history, for saving."""
        return {
            **_keyed(PIPELINE, self.ledger.pipelines),
            **_keyed(GROUP, self.ledger.groups),
            **_keyed(BURST, self.bursts),
            **_keyed(INSTALLATION, {"": self.ledger.installation}),
        }

    def of_stages(self) -> dict[Key, dict[str, Any]]:
        """Return the states learned from stages, which have no history, for saving."""
        return {**_keyed(STAGES, self.stages), **_keyed(ODDS, {"": self.odds}), **_keyed(ALARMS, {"": self.alarms})}


def _burst_name(run: PastRun) -> str | None:
    """Return the name of the error burst counter of a run; None if it did not fail or has no known error class."""
    if run.status != Outcome.FAILED or run.error_class in {None, ErrorClass.CANCELLED}:
        return None
    return f"{run.pipeline_id}:{run.error_class}"


def _keyed(scope: str, states: Mapping[str, JsonState]) -> dict[Key, dict[str, Any]]:
    return {(scope, name): state.to_json() for name, state in states.items()}


# --- stages ---


def _fold_stages(connection: Connection, runs: Sequence[PastRun], states: _States) -> None:
    """Learn from the stages of these executions, oldest end first; record and resolve insights about anomalies."""
    stages = history.ended_stages(connection, runs)
    for run in runs:
        states.stages[run.pipeline_id].execution_ended([_stage_end(stage) for stage in stages[run.execution_id]])
    _join_outcomes(connection, runs, stages, states)
    # the events of executions without such a stage have no anomalies and are not read
    possible = [i for i, ended in stages.items() if any(stage.is_anomaly or stage.attempt > 1 for stage in ended)]
    reported = history.reported_anomalies(connection, possible)
    _count_alarms(connection, runs, reported, states.alarms)
    _record_and_resolve(connection, runs, stages, reported, states)


def _stage_end(stage: EndedStage) -> StageEnd:
    completed = stage.status is StageStatus.COMPLETED
    return StageEnd(stage.stage_id, stage.attempt, completed, stage.duration_s, stage.rows, stage.bytes)


def _join_outcomes(
    connection: Connection, runs: Sequence[PastRun], stages: Mapping[str, Sequence[EndedStage]], states: _States
) -> None:
    by_id = {run.execution_id: run for run in runs}
    made = decisions.without_outcome(connection, list(by_id))
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
            for odds in (states.stages[run.pipeline_id].odds, states.odds):
                odds.add(ErrorClass(decision.error_class), succeeded=outcome == SUCCEEDED)
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
    connection: Connection, runs: Sequence[PastRun], reported: Mapping[str, list[dict[str, Any]]], alarms: Alarms
) -> None:
    warned = history.at_level(connection, [run.execution_id for run in runs], RiskLevel.HIGH)
    for run in runs:
        kinds = {str(anomaly["kind"]) for anomaly in reported.get(run.execution_id, ()) if anomaly.get("alert")}
        if run.execution_id in warned:
            kinds.add(HIGH_RISK)
        if run.counts:
            alarms.ended(sorted(kinds), completed=run.status == ExecutionStatus.COMPLETED)


def _record_and_resolve(
    connection: Connection,
    runs: Sequence[PastRun],
    stages: Mapping[str, Sequence[EndedStage]],
    reported: Mapping[str, list[dict[str, Any]]],
    states: _States,
) -> None:
    """Record one insight per cause, and resolve it with the first run in which the cause is gone."""
    at = utc_now()
    open_causes = insights.open_causes(connection, ANOMALIES)
    for run in runs:
        for data in reported.get(run.execution_id, ()):
            finding = anomaly_of_event(run.pipeline_id, run.execution_id, data)
            if finding is not None:
                insights.record(connection, finding, at)
                open_causes.add(finding.cause)
        gone = {
            anomaly_cause(kind, run.pipeline_id, stage.stage_id)
            for stage in stages[run.execution_id]
            if stage.status is StageStatus.COMPLETED and not stage.is_anomaly
            for kind in (AnomalyKind.LATE, AnomalyKind.VOLUME)
        }
        if not states.stages[run.pipeline_id].retries.piling:
            gone.add(anomaly_cause(AnomalyKind.RETRIES, run.pipeline_id, None))
        insights.resolve(connection, sorted(gone & open_causes), at)
        open_causes -= gone
