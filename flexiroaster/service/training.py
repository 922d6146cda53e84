"""Trains the installation's own risk model on its history, and records champion and challenger with their figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import ConflictError, NotAllowedError
from flexiroaster.model.event import utc_now
from flexiroaster.safety.choice import refresh
from flexiroaster.safety.drift import drift
from flexiroaster.safety.examples import Examples
from flexiroaster.safety.history import History, feature_rows
from flexiroaster.safety.model import RiskModel, Rung
from flexiroaster.service.history import history_of
from flexiroaster.service.installation import Installation
from flexiroaster.service.training_process import LIMIT_SECONDS
from flexiroaster.store import risk_models, run_history, training_claims
from flexiroaster.store.risk_models import ModelRow, NewModel
from flexiroaster.store.run_history import PastRun

__all__ = ["ModelRow", "Trained", "due", "learn", "models", "train"]

MOST_RUNS = 120_000
"""Newest runs that a training looks at: what their features need of the past is among them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training; `metrics` compare the challenger with the champion, where there was a challenger."""

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
    """Whether enough runs have ended since the last training: AI_TRAIN_EVERY of them if that says so. StoreError."""
    knowledge = installation.knowledge
    knowledge.catch_up()
    return knowledge.training_due(installation.settings.ai_train_every or None)


def train(installation: Installation, seed: int = 0) -> Trained:
    """Learn now, because somebody asks for it, as `learn` does.

    Raises ConflictError while another process trains, NotAllowedError where nothing has run yet, StoreError.
    """
    database, owner = installation.database, installation.owner
    if not training_claims.claim_at_once(database, owner, lease_seconds=LIMIT_SECONDS):
        raise ConflictError("A training is under way already")
    try:
        return learn(installation, seed)
    finally:
        training_claims.release(database, owner, pause_seconds=0.0)


def learn(installation: Installation, seed: int = 0) -> Trained:
    """Learn from the newest runs: recalibrate the prior, train a local model, and let what is better answer.

    For whoever has claimed the training. Reproducible by seed and data. Without the extra `safety` there is no local
    model. Raises NotAllowedError where nothing has run yet, StoreError.
    """
    knowledge = installation.knowledge
    knowledge.catch_up()
    if knowledge.runs == 0:
        raise NotAllowedError("There is nothing to learn from yet: no run has completed or failed")
    runs = run_history.newest(installation.database, MOST_RUNS)
    examples = _examples(history_of(runs), runs, knowledge.model)
    learned = _learn(knowledge.model, examples, knowledge.runs, seed)
    new = _stored(learned, examples)
    risk_models.add(installation.database, new)
    knowledge.catch_up()
    fields = ("version", "rung", "reason", "promoted", "examples", "seed", "data_hash", "metrics")
    return Trained(**{name: getattr(new, name) for name in fields}, note=learned.note)


def models(installation: Installation, limit: int = 20) -> list[ModelRow]:
    """The newest trainings, newest first; the first one answers. Raises StoreError."""
    return risk_models.listing(installation.database, limit)


@dataclass(frozen=True, slots=True)
class _Learned:
    model: RiskModel
    promoted: bool
    seed: int
    metrics: dict[str, Any] | None
    note: str | None


def _learn(model: RiskModel, examples: Examples, runs: int, seed: int) -> _Learned:
    if find_spec("sklearn") is None:
        note = "without the extra safety (pip install 'flexiroaster[safety]') there is no local model"
        return _Learned(refresh(model, examples, runs), False, seed, None, note)
    from flexiroaster.safety.training import train as challenge

    training = challenge(model, examples, runs, seed)
    metrics = None
    if training.comparison is not None:
        metrics = {**asdict(training.comparison), "better": training.comparison.better, "kind": training.kind}
    return _Learned(refresh(training.model, examples, runs), training.promoted, seed, metrics, training.reason)


def _stored(learned: _Learned, examples: Examples) -> NewModel:
    watched = asdict(drift(examples.champion, examples.failed))
    return NewModel(
        created_at=utc_now(),
        version=learned.model.version,
        rung=learned.model.rung,
        reason=learned.model.reason,
        promoted=learned.promoted,
        examples=len(examples),
        seed=learned.seed,
        data_hash=examples.data_hash,
        metrics={"comparison": learned.metrics, "drift": watched},
        model=learned.model.to_json(),
    )


def _examples(history: History, runs: list[PastRun], model: RiskModel) -> Examples:
    """The runs with an outcome, with what was said at their starts.

    Of runs that nobody assessed (imported ones) it is what the present models say: one that was trained on them looks
    too good by that, so that it is not replaced without need.
    """
    rows = feature_rows(history)
    known = ~np.isnan(history.target)
    told = [run for run, counts in zip(runs, known.tolist(), strict=True) if counts]
    now = model.probabilities(rows[known])
    said = {rung: _said(told, rung.value, now[rung]) for rung in Rung}
    champion = _said(told, "engine", now[model.rung])
    times = (history.started_at[known], history.finished_at[known])
    return Examples(rows[known], history.target[known], *times, said, champion)


def _said(runs: list[PastRun], name: str, otherwise: Floats) -> Floats:
    missing = float("nan")
    values = np.array([missing if run.said is None else run.said.get(name, missing) for run in runs])
    assessed = np.array([run.said is not None for run in runs], dtype=bool)
    return np.where(assessed, values, otherwise)
