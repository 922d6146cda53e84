"""Additive risk models: a sum over feature groups in log-odds, stored as plain numbers and evaluated with numpy.

`components(rows)` returns the contribution of each group in GROUPS (rows x groups); the score is their sum plus
`intercept`. This makes explanations exact and cheap, and stored models readable: they are JSON and do not depend on the
library that fitted them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import ConflictError
from flexiroaster.safety.risk.factors import FEATURES, GROUPS

__all__ = ["AdditiveModel", "AdditiveTrees", "LinearModel", "model_from_json", "score"]

Floats = NDArray[np.float64]

GROUP_OF = np.array([i for i, names in enumerate(GROUPS.values()) for _ in names])
"""The group index of each feature."""

GROUP_STARTS = np.flatnonzero(np.diff(GROUP_OF, prepend=-1))
"""The index of each group's first feature."""


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A logistic regression with one coefficient per named feature; unnamed features have no effect."""

    coefficients: Mapping[str, float]
    intercept: float
    _dense: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if unknown := set(self.coefficients) - set(FEATURES):
            raise _of_another_version(f"coefficients of unknown features: {', '.join(sorted(unknown))}")
        dense = [self.coefficients.get(name, 0.0) for name in FEATURES]
        object.__setattr__(self, "_dense", np.array(dense))

    def components(self, rows: Floats) -> Floats:
        """Return each group's contribution to the score (log-odds), rows x groups."""
        return np.asarray(np.add.reduceat(rows * self._dense, GROUP_STARTS, axis=1), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        return {"kind": "linear", "coefficients": dict(self.coefficients), "intercept": self.intercept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore the model from `to_json` output."""
        return cls(dict(data["coefficients"]), data["intercept"])


@dataclass(frozen=True, slots=True)
class AdditiveTrees:
    """Boosted trees; each tree splits only on features of one group.

    All arrays are trees x nodes, except `group`, which holds each tree's group index. A node branches `left` if
    feature `feature` is at most `threshold`, else `right`. A leaf points to itself and carries `value`. Node 0 is the
    root.
    """

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats
    group: NDArray[np.int64]
    intercept: float
    depth: int

    def components(self, rows: Floats) -> Floats:
        """Return each group's contribution to the score (log-odds), rows x groups."""
        trees, row = np.arange(len(self.group)), np.arange(len(rows))[:, None]
        node = np.zeros((len(rows), len(trees)), dtype=np.int64)
        for _ in range(self.depth):
            goes_left = rows[row, self.feature[trees, node]] <= self.threshold[trees, node]
            node = np.where(goes_left, self.left[trees, node], self.right[trees, node])
        membership = (self.group[:, None] == np.arange(len(GROUPS))).astype(np.float64)
        return np.asarray(self.value[trees, node] @ membership, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in _TREE_ARRAYS}
        return {"kind": "trees", **arrays, "intercept": self.intercept, "depth": self.depth, "names": list(FEATURES)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore a model from `to_json` output. Raises ConflictError if it uses other features than this version."""
        if tuple(data["names"]) != FEATURES:
            raise _of_another_version("it uses different features")
        arrays: dict[str, Any] = {name: np.array(data[name], dtype=kind) for name, kind in _TREE_ARRAYS.items()}
        return cls(**arrays, intercept=data["intercept"], depth=data["depth"])


_TREE_ARRAYS = {
    "feature": np.int64,
    "threshold": np.float64,
    "left": np.int64,
    "right": np.int64,
    "value": np.float64,
    "group": np.int64,
}


AdditiveModel = LinearModel | AdditiveTrees


def score(model: AdditiveModel, rows: Floats) -> Floats:
    """Return the score (log-odds) of each row."""
    return np.asarray(model.components(rows).sum(axis=1) + model.intercept, dtype=np.float64)


def model_from_json(data: Mapping[str, Any]) -> AdditiveModel:
    """Restore a model of any kind from its `to_json` output. Raises ConflictError if this version cannot use it."""
    kinds: dict[str, type[LinearModel | AdditiveTrees]] = {"linear": LinearModel, "trees": AdditiveTrees}
    if data.get("kind") not in kinds:
        raise _of_another_version(f"its kind is {data.get('kind')!r}")
    return kinds[data["kind"]].from_json(data)


def _of_another_version(reason: str) -> ConflictError:
    return ConflictError(f"The stored risk model belongs to another version ({reason}); retrain it")
