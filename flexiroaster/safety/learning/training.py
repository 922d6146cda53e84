"""Trains a challenger model on the installation's own history and compares it with the champion.

The history is split by time: fit on the oldest 70 %, choose the kind and calibrate on the next 15 %, compare on the
newest 15 %. The final model is fitted on everything and calibrated with the scores of earlier fits on unseen runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped] # ships no types
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped] # ships no types
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no types

from flexiroaster.safety.learning.evaluation import Comparison, Drift, compare, drift, log_loss
from flexiroaster.safety.learning.model_selection import MIN_EXAMPLES, Examples
from flexiroaster.safety.risk.additive import GROUP_OF, AdditiveModel, AdditiveTrees, LinearModel, score
from flexiroaster.safety.risk.calibration import BetaCalibration, VennAbers, sigmoid
from flexiroaster.safety.risk.factors import DIRECTIONS, FEATURES, GROUPS
from flexiroaster.safety.risk.model import Calibrated, RiskModel

__all__ = ["Training", "fit_boosting", "fit_logistic", "train"]


Floats = NDArray[np.float64]
Fit = Callable[[Floats, Floats], AdditiveModel]

MIN_OF_EACH = 30
"""The minimum number of failed and of completed runs in every fit."""

MAX_EXAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class Training:
    """The result of one training: the challenger, its comparison with the champion, and whether it was promoted.

    `seed` and `data_hash` make it reproducible. `model` answers from now on; `drift` is the champion's.
    """

    model: RiskModel
    challenger: Calibrated | None
    kind: str | None
    comparison: Comparison | None
    promoted: bool
    reason: str
    examples: int
    seed: int
    data_hash: str
    drift: Drift


def train(model: RiskModel, examples: Examples, runs: int, seed: int = 0) -> Training:
    """Train a challenger on the newest 100,000 examples; `runs` is the number of all runs so far."""
    data, trained = examples.newest(MAX_EXAMPLES), replace(model, runs_at_training=runs)
    origin = (len(data), seed, data.data_hash, drift(data.champion, data.failed))
    parts = _parts(data)
    if parts is None:
        reason = f"no model was trained: {len(data)} runs contain too few failed or completed ones"
        return Training(trained, None, None, None, False, reason, *origin)
    kind, challenger, comparison = _challenge(data, parts, seed)
    verdict = "promoted" if comparison.better else "not promoted, not better beyond noise"
    reason = f"{kind} model trained on {len(data)} runs, {verdict}: {comparison}"
    if comparison.better:
        trained = trained.with_local(challenger, float(data.finished_at.max()), reason)
    return Training(trained, challenger, kind, comparison, comparison.better, reason, *origin)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a history: `older` had ended when `middle` began, `known` had ended when `newest` began."""

    older: Examples
    middle: Examples
    known: Examples
    newest: Examples


def _parts(data: Examples) -> _Parts | None:
    first, second = int(0.70 * len(data)), int(0.85 * len(data))
    middle, newest = data.take(slice(first, second)), data.take(slice(second, None))
    if len(data) < MIN_EXAMPLES:
        return None
    older = data.take(slice(0, first)).ended_before(float(middle.started_at[0]))
    known = data.take(slice(0, second)).ended_before(float(newest.started_at[0]))
    failed = float(older.failed.sum())
    enough = min(failed, len(older) - failed) >= MIN_OF_EACH
    return _Parts(older, middle, known, newest) if enough else None


def _challenge(data: Examples, parts: _Parts, seed: int) -> tuple[str, Calibrated, Comparison]:
    fits: dict[str, Fit] = {"logistic": fit_logistic, "boosted": lambda rows, failed: fit_boosting(rows, failed, seed)}
    middle = {kind: score(fit(parts.older.rows, parts.older.failed), parts.middle.rows) for kind, fit in fits.items()}
    kind = min(middle, key=lambda k: float(log_loss(sigmoid(middle[k]), parts.middle.failed).mean()))
    newest = score(fits[kind](parts.known.rows, parts.known.failed), parts.newest.rows)
    curve = BetaCalibration.fit(middle[kind], parts.middle.failed)
    comparison = compare(parts.newest.champion, curve.apply(newest), parts.newest.failed)
    unseen = np.concatenate([middle[kind], newest])
    outcomes = np.concatenate([parts.middle.failed, parts.newest.failed])
    final = fits[kind](data.rows, data.failed)
    return kind, Calibrated(final, BetaCalibration.fit(unseen, outcomes), VennAbers.fit(unseen, outcomes)), comparison


# --- the two kinds of local model, converted to plain numbers ---


def fit_logistic(
    rows: Floats,
    failed: Floats,
    names: tuple[str, ...] = FEATURES,
    *,
    strength: float = 0.1,
    weights: Floats | None = None,
) -> LinearModel:
    """Fit a ridge logistic regression over the named features, with coefficient signs bounded by DIRECTIONS.

    `strength` is scikit-learn's C on standardized features. The fit minimizes 0.5 |w|^2 + C * (weighted log loss)
    within bounds, which scikit-learn's own regression does not support.
    """
    used = rows[:, [FEATURES.index(name) for name in names]]
    middle, scale = used.mean(axis=0), used.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(used - middle) / scale, np.ones(len(used))])
    each = strength * (np.ones(len(failed)) if weights is None else weights)

    def loss(theta: Floats) -> tuple[float, Floats]:
        scores, ridge = design @ theta, np.append(theta[:-1], 0.0)
        value = each @ (np.logaddexp(0.0, scores) - failed * scores) + 0.5 * ridge @ ridge
        return float(value), design.T @ (each * (sigmoid(scores) - failed)) + ridge

    bounds = [*(_BOUNDS[DIRECTIONS.get(name, 0)] for name in names), (None, None)]
    with threadpool_limits(1):  # leave the other cores to running stages
        found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=_OPTIONS)
    coefficients = found.x[:-1] / scale
    intercept = float(found.x[-1] - coefficients @ middle)
    return LinearModel(dict(zip(names, coefficients.tolist(), strict=True)), intercept)


_OPTIONS = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-12, "gtol": 1e-7}


_BOUNDS = {1: (0.0, None), -1: (None, 0.0), 0: (None, None)}


def fit_boosting(rows: Floats, failed: Floats, seed: int = 0) -> AdditiveTrees:
    """Fit gradient-boosted small trees, each over one feature group (a generalized additive model of groups).

    The fit is monotonic in each feature as given by DIRECTIONS.
    """
    groups = [np.flatnonzero(np.equal(GROUP_OF, i)).tolist() for i in range(len(GROUPS))]
    model = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.06,
        max_leaf_nodes=8,
        min_samples_leaf=max(20, min(100, len(rows) // 50)),
        l2_regularization=5.0,
        early_stopping=False,
        interaction_cst=groups,
        monotonic_cst=[DIRECTIONS.get(name, 0) for name in FEATURES],
        random_state=seed,
    )
    with threadpool_limits(1):  # leave the other cores to running stages
        return _trees_as_arrays(model.fit(rows, failed))


def _trees_as_arrays(model: HistGradientBoostingClassifier) -> AdditiveTrees:
    """Convert the trees to arrays. They come from scikit-learn's private `_predictors`; a test compares the scores."""
    trees = [iteration[0].nodes for iteration in model._predictors]
    size = max(map(len, trees))
    padded = {name: np.stack([_padded(tree[name], size) for tree in trees]) for name in _FIELDS}
    leaf, itself = padded["is_leaf"].astype(bool), np.arange(size)[None, :]
    feature = np.where(leaf, 0, padded["feature_idx"]).astype(np.int64)
    return AdditiveTrees(
        feature=feature,
        threshold=np.where(leaf, 0.0, padded["num_threshold"]).astype(np.float64),
        left=np.where(leaf, itself, padded["left"]).astype(np.int64),
        right=np.where(leaf, itself, padded["right"]).astype(np.int64),
        value=np.where(leaf, padded["value"], 0.0).astype(np.float64),
        group=GROUP_OF[feature[:, 0]],
        intercept=float(model._baseline_prediction.ravel()[0]),
        depth=int(padded["depth"].max()),
    )


_FIELDS = ("value", "feature_idx", "num_threshold", "left", "right", "is_leaf", "depth")


def _padded(column: NDArray[Any], size: int) -> NDArray[Any]:
    filled = np.zeros(size, dtype=column.dtype)
    filled[: len(column)] = column
    return filled
