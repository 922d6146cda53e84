"""Trains the installation's own risk model on its history, and records champion and challenger with their metrics.

`main` is the child process that the learner starts, so that no training runs in the process that drives executions.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError, FlexiRoasterError, NotAllowedError
from flexiroaster.model.event import utc_now
from flexiroaster.safety.learning.evaluation import Drift, drift
from flexiroaster.safety.learning.model_selection import Examples, refresh
from flexiroaster.safety.learning.replay import Learned, replay_learning
from flexiroaster.safety.risk.history import History, feature_rows
from flexiroaster.safety.risk.model import RiskModel, Rung
from flexiroaster.safety.risk.state import Outcome
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.service.safety.learner import LIMIT_SECONDS
from flexiroaster.store.safety import history as run_history
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.history import PastRun
from flexiroaster.store.safety.risk import ModelRow, NewModel

if TYPE_CHECKING:
    from flexiroaster.safety.learning.training import Training

__all__ = [
    "ModelRow",
    "Trained",
    "can_train",
    "due",
    "history_of",
    "learn",
    "main",
    "models",
    "replay",
    "train",
    "training_lease",
]

NICENESS = 10

CHUNK = 2000
"""The number of runs whose predictions are written per transaction."""

MAX_RUNS = 120_000
"""The number of newest runs that a training reads; it includes the past that their features need."""

Floats = NDArray[np.float64]


def main() -> None:
    """Run the child process: train once and exit with 0, or print the error and exit with 1."""
    os.nice(NICENESS)
    request: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(request["limit_seconds"])  # ends the process, whatever it is doing
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with open_installation(Settings(**request["settings"])) as installation:
            learn(installation)
    except FlexiRoasterError as error:
        sys.exit(str(error))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin, whose lock interpreter shutdown needs
        pass
    os._exit(1)


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training; `metrics` compare the challenger with the champion, if there was a challenger."""

    version: str
    rung: str
    reason: str
    promoted: bool
    examples: int
    seed: int
    data_hash: str
    metrics: dict[str, Any] | None
    note: str


def due(installation: Installation) -> bool:
    """Return whether a training is due, by AI_TRAIN_EVERY or the engine's own rule. Raises StoreError."""
    risk_state = installation.risk_state
    risk_state.catch_up()
    return risk_state.training_due(installation.settings.ai_train_every or None)


def can_train() -> bool:
    """Return whether the extra `safety` is installed."""
    return find_spec("sklearn") is not None


def train(installation: Installation, seed: int = 0) -> Trained:
    """Train now on request, as `learn` does.

    Raises ConflictError if another process is training, NotAllowedError before the first run has ended, StoreError.
    """
    with training_lease(installation):
        return learn(installation, seed)


@contextmanager
def training_lease(installation: Installation) -> Iterator[None]:
    """Hold the training lease. Raises ConflictError if another process is training, StoreError."""
    database, owner = installation.database, installation.owner
    if not risk.claim_training_at_once(database, owner, lease_seconds=LIMIT_SECONDS):
        raise ConflictError("A training is already in progress")
    try:
        yield
    finally:
        risk.release_training(database, owner, pause_seconds=0.0)


def models(installation: Installation, limit: int = 20) -> list[ModelRow]:
    """List the newest trainings, newest first; the first one's model is in use. Raises StoreError."""
    return risk.list_models(installation.database, limit)


# --- learning from the newest runs ---


def learn(installation: Installation, seed: int = 0) -> Trained:
    """Learn from the newest runs: recalibrate the prior, train a local model, and choose the better one.

    The caller must hold the training lease. The result is reproducible from seed and data. Without the extra `safety`
    there is no local model. Raises NotAllowedError before the first run has ended, StoreError.
    """
    risk_state = installation.risk_state
    risk_state.catch_up()
    if risk_state.runs == 0:
        raise NotAllowedError("There is nothing to learn from yet: no run has completed or failed")
    runs = run_history.newest(installation.database, MAX_RUNS)
    if any(run.imported and run.said is None for run in runs):  # imported by a process that did not replay them
        replay(installation, seed)
        runs = run_history.newest(installation.database, MAX_RUNS)
    new, note = _learn(risk_state.model, _examples(history_of(runs), runs), risk_state.runs, seed)
    with installation.database.write() as connection:
        risk.add_model(connection, new)
    risk_state.catch_up()
    fields = ("version", "rung", "reason", "promoted", "examples", "seed", "data_hash", "metrics")
    return Trained(**{name: getattr(new, name) for name in fields}, note=note)


def _learn(model: RiskModel, examples: Examples, runs: int, seed: int) -> tuple[NewModel, str]:
    """Return the new model, and a note on the training of a local model."""
    training = None
    if can_train():
        from flexiroaster.safety.learning.training import train as train_local

        training = train_local(model, examples, runs, seed)
        model, note = training.model, training.reason
    else:
        note = "no local model was trained: it requires the extra safety (pip install 'flexiroaster[safety]')"
    watched = drift(examples.champion, examples.failed)
    refreshed = refresh(model, examples, runs)
    return _new_model(refreshed, training, len(examples), seed, examples.data_hash, watched), note


def history_of(runs: Sequence[PastRun]) -> History:
    """Convert runs, in their order, to the safety engine's `History`."""
    return History(
        pipeline_id=[run.pipeline_id for run in runs],
        started_at=np.array([run.started_at.timestamp() for run in runs]),
        finished_at=np.array([run.finished_at.timestamp() for run in runs]),
        outcome=[Outcome(run.status) for run in runs],
        duration_s=[run.duration_s for run in runs],
        n_stages=[run.n_stages for run in runs],
        execution_id=[run.execution_id for run in runs],
    )


def _examples(history: History, runs: Sequence[PastRun]) -> Examples:
    """Return the runs with an outcome and the predictions made at their starts; NaN where there were none."""
    known = ~np.isnan(history.target)
    made = [run.said or {} for run, counts in zip(runs, known.tolist(), strict=True) if counts]

    def predicted(name: str) -> Floats:
        return np.array([each.get(name, math.nan) for each in made])

    return Examples(
        feature_rows(history)[known],
        history.target[known],
        history.started_at[known],
        history.finished_at[known],
        {rung: predicted(rung.value) for rung in Rung},
        predicted("engine"),
    )


def _new_model(
    model: RiskModel, training: Training | None, examples: int, seed: int, data_hash: str, watched: Drift
) -> NewModel:
    comparison = None
    if training is not None and training.comparison is not None:
        compared = training.comparison
        comparison = {**asdict(compared), "better": compared.better, "kind": training.kind}
    return NewModel(
        created_at=utc_now(),
        version=model.version,
        rung=model.rung,
        reason=model.reason,
        promoted=training is not None and training.promoted,
        examples=examples,
        seed=seed,
        data_hash=data_hash,
        metrics={"comparison": comparison, "drift": asdict(watched)},
        model=model.to_json(),
    )


# --- replaying an imported history ---


def replay(installation: Installation, seed: int = 0) -> None:
    """Rebuild the model as if the engine had been on during the whole known history.

    The prediction it would have made at the start of each imported run is stored with the run, so that later trainings
    are evaluated on predictions made before the outcomes were known. Real predictions stay unchanged. The caller must
    hold the training lease. Raises StoreError.
    """
    runs = run_history.newest(installation.database, MAX_RUNS)
    history = history_of(runs)
    learned = replay_learning(history, feature_rows(history), seed=seed, local=can_train())
    older = max(0, installation.risk_state.runs - sum(run.counts for run in runs))
    with installation.database.write() as connection:  # before the predictions: after a crash in between, all is redone
        for new in _replayed_models(learned, history, older, seed):
            risk.add_model(connection, new)
    columns = {rung.value: values.tolist() for rung, values in learned.predictions.items()}
    columns["engine"] = learned.champion.tolist()
    imported = [row for row, run in enumerate(runs) if run.imported]
    for begin in range(0, len(imported), CHUNK):
        predictions = {
            (runs[row].execution_id, runs[row].finished_at): {
                name: values[row] for name, values in columns.items() if not math.isnan(values[row])
            }
            for row in imported[begin : begin + CHUNK]
        }
        with installation.database.write() as connection:
            run_history.save_predictions(connection, predictions)
    installation.risk_state.catch_up()


def _replayed_models(learned: Learned, history: History, older: int, seed: int) -> Iterator[NewModel]:
    """Yield the model of each training of a replay, and the final one if it was recalibrated after the last training.

    `older` is the number of runs before those replayed.
    """

    def with_older_runs(model: RiskModel) -> RiskModel:
        refreshed, trained = model.runs_at_refresh + older, model.runs_at_training + older
        return replace(model, runs_at_refresh=refreshed, runs_at_training=trained)

    for each in learned.trainings:
        yield _new_model(with_older_runs(each.model), each, each.examples, each.seed, each.data_hash, each.drift)
    if not learned.trainings or learned.trainings[-1].model is not learned.model:
        known = ~np.isnan(history.target)
        watched = drift(learned.champion[known], history.target[known])
        yield _new_model(with_older_runs(learned.model), None, int(known.sum()), seed, learned.data_hash, watched)
