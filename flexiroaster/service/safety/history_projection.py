"""The history projection: folds finished runs into the risk states, each run once, in order and in batches.

It is independent of the driver, so it adds no cost to execution state changes. Readers catch up first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from flexiroaster.errors import ErrorClass
from flexiroaster.model.event import utc_now
from flexiroaster.safety.bursts import ErrorBurst
from flexiroaster.safety.features import Past
from flexiroaster.safety.risk.history import Ledger
from flexiroaster.safety.risk.state import PipelineState, Population
from flexiroaster.safety.runs import Ending, Outcome, group_of
from flexiroaster.service.safety.insight_messages import burst, causes_gone
from flexiroaster.service.stage_folding import fold_stages
from flexiroaster.store import risk_states
from flexiroaster.store.database import Database
from flexiroaster.store.risk_states import BURST, GROUP, INSTALLATION, PIPELINE, Key, Progress
from flexiroaster.store.safety import history, insights
from flexiroaster.store.safety.history import PastRun

__all__ = ["BATCH", "Folded", "ending_of", "fold", "fold_anew", "look"]

BATCH = 500
"""The number of runs folded per transaction; on SQLite, the transaction blocks all other writers."""


def look(database: Database, known: Progress | None) -> tuple[Progress, bool]:
    """Return the progress of the states, and whether an execution has ended since. Raises StoreError.

    `known` is the last progress seen; with it, the call costs a single statement.
    """
    with database.read() as connection:
        since = known or risk_states.progress(connection)
        return risk_states.progress_and(connection, history.anything_unfolded(since.folded_until))


@dataclass(frozen=True, slots=True)
class Folded:
    """The result of a fold: the number of executions, the progress of the states, and the pasts of their pipelines."""

    executions: int
    progress: Progress
    pasts: Mapping[str, Past]


def fold(database: Database, error_threshold: int, most: int = BATCH) -> Folded:
    """Fold up to `most` newly finished executions. No two processes fold the same execution. Raises StoreError.

    If a machine crash undoes the fold, the same executions are folded again.
    """
    pasts: Mapping[str, Past] = {}
    with database.write_again() as connection:
        before = now = risk_states.locked_progress(connection)
        runs = history.unfolded(connection, before.folded_until, most)
        if runs:
            fold_stages(connection, runs)
            history.add(connection, runs)
            states = _States.load(connection, runs)
            findings = states.fold(runs, error_threshold)
            risk_states.save(connection, states.to_json())
            pasts = {name: states.ledger.past(name) for name in states.ledger.pipelines}
            now = risk_states.advance(connection, before, runs[-1].finished_at, sum(run.counts for run in runs))
            insights.resolve(connection, causes_gone(runs), utc_now())
            for finding in findings:
                insights.note(connection, finding, utc_now())
    return Folded(len(runs), now, pasts)


def fold_anew(connection: Connection, error_threshold: int) -> int:
    """Reset the states and refold the whole history (after an import); return the number of runs. Adds no insights."""
    before, states = risk_states.forget_all(connection), _States()
    folded, counted = 0, 0
    for run in history.in_order(connection):
        states.fold([run], error_threshold)
        folded, counted = folded + 1, counted + run.counts
    risk_states.save(connection, states.to_json())
    risk_states.advance(connection, before, None, counted)
    return folded


def ending_of(run: PastRun) -> Ending:
    """Convert a past run to the safety engine's `Ending`."""
    return Ending(run.finished_at.timestamp(), Outcome(run.status), run.duration_s)


class _Stored(Protocol):
    def to_json(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=_Stored)


@dataclass(slots=True)
class _States:
    """The states affected by a batch of runs."""

    ledger: Ledger = field(default_factory=Ledger)
    bursts: defaultdict[str, ErrorBurst] = field(default_factory=lambda: defaultdict(ErrorBurst))

    @classmethod
    def load(cls, connection: Connection, runs: Sequence[PastRun]) -> _States:
        """Load the stored states; new pipelines and groups start with empty ones."""
        stored, states = risk_states.load(connection, _keys(runs)), cls()
        states.ledger.pipelines.update(_named(stored, PIPELINE, PipelineState.from_json))
        states.ledger.groups.update(_named(stored, GROUP, Population.from_json))
        states.bursts.update(_named(stored, BURST, ErrorBurst.from_json))
        if (INSTALLATION, "") in stored:
            states.ledger.installation = Population.from_json(stored[INSTALLATION, ""])
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

    def to_json(self) -> dict[Key, dict[str, Any]]:
        """Return all states by key, for saving."""
        return {
            **_keyed(PIPELINE, self.ledger.pipelines),
            **_keyed(GROUP, self.ledger.groups),
            **_keyed(BURST, self.bursts),
            (INSTALLATION, ""): self.ledger.installation.to_json(),
        }


def _keys(runs: Sequence[PastRun]) -> set[Key]:
    keys: set[Key] = {(INSTALLATION, "")}
    for run in runs:
        keys |= {(PIPELINE, run.pipeline_id), (GROUP, group_of(run.pipeline_id))}
        if name := _burst_name(run):
            keys.add((BURST, name))
    return keys


def _burst_name(run: PastRun) -> str | None:
    """Return the name of the error burst counter of a run; None if it did not fail or has no known error class."""
    if run.status != Outcome.FAILED or run.error_class in {None, ErrorClass.CANCELLED}:
        return None
    return f"{run.pipeline_id}:{run.error_class}"


def _named(stored: Mapping[Key, dict[str, Any]], scope: str, make: Callable[[dict[str, Any]], S]) -> dict[str, S]:
    return {name: make(state) for (kind, name), state in stored.items() if kind == scope}


def _keyed(scope: str, states: Mapping[str, _Stored]) -> dict[Key, dict[str, Any]]:
    return {(scope, name): state.to_json() for name, state in states.items()}
