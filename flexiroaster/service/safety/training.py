"""Trains the installation's own risk model on its history, and records champion and challenger with their metrics."""

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
from flexiroaster.safety.learning.evaluation import drift
from flexiroaster.safety.learning.model_selection import Examples, refresh
from flexiroaster.safety.learning.replay import Learned
from flexiroaster.safety.learning.replay import learn as relive
from flexiroaster.safety.risk.history import History, feature_rows
from flexiroaster.safety.risk.model import RiskModel, Rung
from flexiroaster.safety.risk.state import Outcome
from flexiroaster.service.installation import Installation
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
    "claimed",
    "due",
    "history_of",
    "learn",
    "models",
    "replay",
    "train",
]


NICENESS = 10


def main() -> None:
    """Run the child process: train once and exit with 0, or print the error and exit with 1."""
    os.nice(NICENESS)
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.alarm(order["limit_seconds"])  # ends the process, whatever it is doing
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(Settings(**order["settings"]))
    except FlexiRoasterError as error:
        sys.exit(str(error))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin, whose lock interpreter shutdown needs
        pass
    os._exit(1)


def _train(settings: Settings) -> None:
    from flexiroaster.service.installation import open_installation

    with open_installation(settings) as installation:
        learn(installation)


CHUNK = 2000
"""The number of runs whose predictions are written per transaction."""

MOST_RUNS = 120_000
"""The number of newest runs that a training reads; it includes the past that their features need."""

Floats = NDArray[np.float64]


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
    note: str | None


def due(installation: Installation) -> bool:
    """Return whether a training is due, by AI_TRAIN_EVERY or the engine's own rule. Raises StoreError."""
    knowledge = installation.knowledge
    knowledge.catch_up()
    return knowledge.training_due(installation.settings.ai_train_every or None)


def train(installation: Installation, seed: int = 0) -> Trained:
    """Train now on request, as `learn` does.

    Raises ConflictError if another process is training, NotAllowedError before the first run has ended, StoreError.
    """
    with claimed(installation):
        return learn(installation, seed)


@contextmanager
def claimed(installation: Installation) -> Iterator[None]:
    """Hold the training lease. Raises ConflictError if another process is training, StoreError."""
    database, owner = installation.database, installation.owner
    if not risk.claim_training_at_once(database, owner, lease_seconds=LIMIT_SECONDS):
        raise ConflictError("A training is already in progress")
    try:
        yield
    finally:
        risk.release_training(database, owner, pause_seconds=0.0)


def learn(installation: Installation, seed: int = 0) -> Trained:
    """Learn from the newest runs: recalibrate the prior, train a local model, and choose the better one.

    The caller must hold the training lease (`claimed`). The result is reproducible from seed and data. Without the
    extra `safety` there is no local model. Raises NotAllowedError before the first run has ended, StoreError.
    """
    knowledge = installation.knowledge
    knowledge.catch_up()
    if knowledge.runs == 0:
        raise NotAllowedError("There is nothing to learn from yet: no run has completed or failed")
    runs = run_history.newest(installation.database, MOST_RUNS)
    if any(_lacks_prediction(run) for run in runs):  # imported by a process that did not replay them
        replay(installation, seed)
        runs = run_history.newest(installation.database, MOST_RUNS)
    examples = _examples(history_of(runs), runs)
    learned = _learn(knowledge.model, examples, knowledge.runs, seed)
    new = _stored(learned, examples)
    with installation.database.write() as connection:
        risk.add_model(connection, new)
    knowledge.catch_up()
    fields = ("version", "rung", "reason", "promoted", "examples", "seed", "data_hash", "metrics")
    return Trained(**{name: getattr(new, name) for name in fields}, note=learned.note)


def replay(installation: Installation, seed: int = 0) -> None:
    """Rebuild the model as if the engine had been on during the whole known history.

    The prediction it would have made at the start of each imported run is stored with the run, so that later trainings
    are evaluated on predictions made before the outcomes were known. Real predictions stay unchanged. The caller must
    hold the training lease (`claimed`). Raises StoreError.
    """
    runs = run_history.newest(installation.database, MOST_RUNS)
    history = history_of(runs)
    learned = relive(history, feature_rows(history), seed=seed, local=can_train())
    older = max(0, installation.knowledge.runs - sum(run.counts for run in runs))
    with installation.database.write() as connection:  # before the predictions: after a crash in between, all is redone
        for new in _replayed(learned, history, older, seed):
            risk.add_model(connection, new)
    answers = {rung.value: values.tolist() for rung, values in learned.predictions.items()}
    columns = {**answers, "engine": learned.champion.tolist()}
    imported = [row for row, run in enumerate(runs) if run.imported]
    for begin in range(0, len(imported), CHUNK):
        said = {
            (runs[row].execution_id, runs[row].finished_at): _known({name: c[row] for name, c in columns.items()})
            for row in imported[begin : begin + CHUNK]
        }
        with installation.database.write() as connection:
            run_history.save_predictions(connection, said)
    installation.knowledge.catch_up()


def models(installation: Installation, limit: int = 20) -> list[ModelRow]:
    """List the newest trainings, newest first; the first one's model is in use. Raises StoreError."""
    return risk.list_models(installation.database, limit)


def history_of(runs: Sequence[PastRun]) -> History:
    """Convert runs, ordered by start, to the safety engine's `History`."""
    return History(
        pipeline_id=[run.pipeline_id for run in runs],
        started_at=np.array([run.started_at.timestamp() for run in runs]),
        finished_at=np.array([run.finished_at.timestamp() for run in runs]),
        outcome=[Outcome(run.status) for run in runs],
        duration_s=[run.duration_s for run in runs],
        n_stages=[run.n_stages for run in runs],
        execution_id=[run.execution_id for run in runs],
    )


@dataclass(frozen=True, slots=True)
class _Learned:
    model: RiskModel
    promoted: bool
    seed: int
    metrics: dict[str, Any] | None
    note: str | None


def _learn(model: RiskModel, examples: Examples, runs: int, seed: int) -> _Learned:
    if not can_train():
        note = "no local model was trained: it requires the extra safety (pip install 'flexiroaster[safety]')"
        return _Learned(refresh(model, examples, runs), False, seed, None, note)
    from flexiroaster.safety.learning.training import train as challenge

    training = challenge(model, examples, runs, seed)
    model = refresh(training.model, examples, runs)
    return _Learned(model, training.promoted, seed, _metrics(training), training.reason)


def _stored(learned: _Learned, examples: Examples) -> NewModel:
    watched = drift(examples.champion, examples.failed)
    made = (learned.promoted, len(examples), learned.seed, examples.data_hash)
    return _new(learned.model, *made, {"comparison": learned.metrics, "drift": asdict(watched)})


def _replayed(learned: Learned, history: History, older: int, seed: int) -> Iterator[NewModel]:
    """Yield each training of a replay, and the final model if it was recalibrated after the last training.

    `older` is the number of runs before those replayed.
    """
    for each in learned.trainings:
        metrics = {"comparison": _metrics(each), "drift": asdict(each.drift)}
        yield _new(_later(each.model, older), each.promoted, each.examples, each.seed, each.data_hash, metrics)
    if not learned.trainings or learned.trainings[-1].model is not learned.model:
        known = ~np.isnan(history.target)
        watched = drift(learned.champion[known], history.target[known])
        made = (False, int(known.sum()), seed, learned.data_hash)
        yield _new(_later(learned.model, older), *made, {"comparison": None, "drift": asdict(watched)})


def _later(model: RiskModel, older: int) -> RiskModel:
    return replace(
        model, runs_at_refresh=model.runs_at_refresh + older, runs_at_training=model.runs_at_training + older
    )


def _new(
    model: RiskModel, promoted: bool, examples: int, seed: int, data_hash: str, metrics: dict[str, Any]
) -> NewModel:
    return NewModel(
        created_at=utc_now(),
        version=model.version,
        rung=model.rung,
        reason=model.reason,
        promoted=promoted,
        examples=examples,
        seed=seed,
        data_hash=data_hash,
        metrics=metrics,
        model=model.to_json(),
    )


def _metrics(training: Training) -> dict[str, Any] | None:
    if training.comparison is None:
        return None
    return {**asdict(training.comparison), "better": training.comparison.better, "kind": training.kind}


def can_train() -> bool:
    """Return whether the extra `safety` is installed."""
    return find_spec("sklearn") is not None


def _lacks_prediction(run: PastRun) -> bool:
    return run.imported and run.said is None


def _known(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _examples(history: History, runs: list[PastRun]) -> Examples:
    """Return the runs with an outcome and the predictions made at their starts; NaN where there were none."""
    rows = feature_rows(history)
    known = ~np.isnan(history.target)
    told = [run for run, counts in zip(runs, known.tolist(), strict=True) if counts]
    said = {rung: _said(told, rung.value) for rung in Rung}
    times = (history.started_at[known], history.finished_at[known])
    return Examples(rows[known], history.target[known], *times, said, _said(told, "engine"))


def _said(runs: list[PastRun], name: str) -> Floats:
    missing = float("nan")
    return np.array([missing if run.said is None else run.said.get(name, missing) for run in runs])
