"""Models that are a sum over groups of features, in log-odds: plain numbers, evaluated with numpy.

`components(rows)` gives what each group of GROUPS adds (rows x groups); the score is their sum plus `intercept`. That
makes an explanation exact and cheap, and a stored model readable: JSON, independent of the library that fitted it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import ConflictError
from flexiroaster.safety.features import GROUPS, NAMES

__all__ = ["AdditiveModel", "AdditiveTrees", "LinearModel", "model_from_json", "score"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float64]

GROUP_OF = np.array([i for i, names in enumerate(GROUPS.values()) for _ in names])
"""For each feature the number of its group."""


class AdditiveModel(Protocol):
    """What every model of the engine can do."""

    @property
    def intercept(self) -> float:
        """The score where all groups add nothing."""

    def components(self, rows: Rows) -> Floats:
        """What each group adds to the score (log-odds), rows x groups."""

    def to_json(self) -> dict[str, Any]:
        """The model as JSON values, with its `kind`."""


def score(model: AdditiveModel, rows: Rows) -> Floats:
    """The score (log-odds) of each row."""
    return np.asarray(model.components(rows).sum(axis=1) + model.intercept, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A logistic regression: a coefficient for each feature named; others do not count."""

    coefficients: Mapping[str, float]
    intercept: float
    _dense: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if unknown := set(self.coefficients) - set(NAMES):
            raise _of_another_version(f"coefficients of unknown features: {', '.join(sorted(unknown))}")
        dense = [self.coefficients.get(name, 0.0) for name in NAMES]
        object.__setattr__(self, "_dense", np.array(dense))

    def components(self, rows: Rows) -> Floats:
        """What each group adds to the score (log-odds), rows x groups."""
        return _by_group(rows * self._dense)

    def to_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        return {"kind": "linear", "coefficients": dict(self.coefficients), "intercept": self.intercept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The model that `to_json` wrote."""
        return cls(dict(data["coefficients"]), data["intercept"])


@dataclass(frozen=True, slots=True)
class AdditiveTrees:
    """Boosted trees, each of which splits on features of one group only.

    All arrays are trees x nodes. At a node: go `left` where feature `feature` is at most `threshold`, else `right`; a
    leaf leads to itself and has the `value`. Node 0 is the root; `group` names each tree's group.
    """

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats
    group: NDArray[np.int64]
    intercept: float
    depth: int

    def components(self, rows: Rows) -> Floats:
        """What each group adds to the score (log-odds), rows x groups."""
        trees, line = np.arange(len(self.group)), np.arange(len(rows))[:, None]
        node = np.zeros((len(rows), len(trees)), dtype=np.int64)
        for _ in range(self.depth):
            goes_left = rows[line, self.feature[trees, node]] <= self.threshold[trees, node]
            node = np.where(goes_left, self.left[trees, node], self.right[trees, node])
        membership = (self.group[:, None] == np.arange(len(GROUPS))).astype(np.float64)
        return np.asarray(self.value[trees, node] @ membership, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {"kind": "trees", **arrays, "intercept": self.intercept, "depth": self.depth, "names": list(NAMES)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The model that `to_json` wrote. Raises ConflictError when its features are not those of this version."""
        if tuple(data["names"]) != NAMES:
            raise _of_another_version("its features are not the present ones")
        return cls(
            feature=np.array(data["feature"], dtype=np.int64),
            threshold=np.array(data["threshold"], dtype=np.float64),
            left=np.array(data["left"], dtype=np.int64),
            right=np.array(data["right"], dtype=np.int64),
            value=np.array(data["value"], dtype=np.float64),
            group=np.array(data["group"], dtype=np.int64),
            intercept=data["intercept"],
            depth=data["depth"],
        )


_ARRAYS = ("feature", "threshold", "left", "right", "value", "group")


def model_from_json(data: Mapping[str, Any]) -> AdditiveModel:
    """The model that its `to_json` wrote. Raises ConflictError when this version cannot use it."""
    kinds: dict[str, type[LinearModel | AdditiveTrees]] = {"linear": LinearModel, "trees": AdditiveTrees}
    if data.get("kind") not in kinds:
        raise _of_another_version(f"its kind is {data.get('kind')!r}")
    return kinds[data["kind"]].from_json(data)


def _by_group(per_feature: Floats) -> Floats:
    starts = np.flatnonzero(np.diff(GROUP_OF, prepend=-1))
    return np.asarray(np.add.reduceat(per_feature, starts, axis=1), dtype=np.float64)


def _of_another_version(reason: str) -> ConflictError:
    return ConflictError(f"The stored risk model is of another version ({reason}); train it again")
