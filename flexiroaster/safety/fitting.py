"""Fits the two kinds of local model with scikit-learn and takes them over as plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped] # ships no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped] # ships no types
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped] # ships no types
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no types

from flexiroaster.safety.additive import GROUP_OF, AdditiveTrees, LinearModel
from flexiroaster.safety.features import GROUPS, NAMES

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
    """A ridge logistic regression over the named features; `strength` is scikit-learn's C on standardised features."""
    used = rows[:, [NAMES.index(name) for name in names]]
    scaler = StandardScaler().fit(used)
    model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(used), failed, sample_weight=weights)
    coefficients = model.coef_[0] / scaler.scale_
    intercept = float(model.intercept_[0] - coefficients @ scaler.mean_)
    return LinearModel(dict(zip(names, coefficients.tolist(), strict=True)), intercept)


def fit_boosting(rows: Floats, failed: Floats, seed: int = 0) -> AdditiveTrees:
    """Gradient boosting of small trees, each over one group of features (a generalised additive model of groups)."""
    groups = [np.flatnonzero(np.equal(GROUP_OF, i)).tolist() for i in range(len(GROUPS))]
    model = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.06,
        max_leaf_nodes=8,
        min_samples_leaf=max(20, min(100, len(rows) // 50)),
        l2_regularization=5.0,
        early_stopping=False,
        interaction_cst=groups,
        random_state=seed,
    )
    with threadpool_limits(1):  # the other cores belong to the stages that run
        return _taken_over(model.fit(rows, failed))


def _taken_over(model: HistGradientBoostingClassifier) -> AdditiveTrees:
    """The trees as arrays; `_predictors` is where scikit-learn keeps them, which a test compares with its scores."""
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
