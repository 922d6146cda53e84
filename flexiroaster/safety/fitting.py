"""Fits the two kinds of local model with scipy and scikit-learn, and converts them to plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped] # ships no types
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped] # ships no types
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no types

from flexiroaster.safety.features import DIRECTIONS, GROUPS, NAMES
from flexiroaster.safety.risk.additive import GROUP_OF, AdditiveTrees, LinearModel
from flexiroaster.safety.risk.calibration import sigmoid

__all__ = ["fit_boosting", "fit_logistic"]

Floats = NDArray[np.float64]


def fit_logistic(
    rows: Floats,
    failed: Floats,
    names: tuple[str, ...] = NAMES,
    *,
    strength: float = 0.1,
    weights: Floats | None = None,
) -> LinearModel:
    """Fit a ridge logistic regression over the named features, with coefficient signs bounded by DIRECTIONS.

    `strength` is scikit-learn's C on standardized features. The fit minimizes 0.5 |w|^2 + C * (weighted log loss)
    within bounds, which scikit-learn's own regression does not support.
    """
    used = rows[:, [NAMES.index(name) for name in names]]
    middle, scale = used.mean(axis=0), used.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(used - middle) / scale, np.ones(len(used))])
    each = strength * (np.ones(len(failed)) if weights is None else weights)

    def loss(theta: Floats) -> tuple[float, Floats]:
        scores, ridge = design @ theta, np.append(theta[:-1], 0.0)
        value = each @ (np.logaddexp(0.0, scores) - failed * scores) + 0.5 * ridge @ ridge
        return float(value), design.T @ (each * (sigmoid(scores) - failed)) + ridge

    bounds = [*(_bounds(DIRECTIONS.get(name, 0)) for name in names), (None, None)]
    with threadpool_limits(1):  # leave the other cores to running stages
        found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=_OPTIONS)
    coefficients = found.x[:-1] / scale
    intercept = float(found.x[-1] - coefficients @ middle)
    return LinearModel(dict(zip(names, coefficients.tolist(), strict=True)), intercept)


_OPTIONS = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-12, "gtol": 1e-7}


def _bounds(direction: int) -> tuple[float | None, float | None]:
    return (0.0 if direction > 0 else None, 0.0 if direction < 0 else None)


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
        monotonic_cst=[DIRECTIONS.get(name, 0) for name in NAMES],
        random_state=seed,
    )
    with threadpool_limits(1):  # leave the other cores to running stages
        return _taken_over(model.fit(rows, failed))


def _taken_over(model: HistGradientBoostingClassifier) -> AdditiveTrees:
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
