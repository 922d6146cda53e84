"""P(failure) in steps: the prior, the prior recalibrated to this installation, a model trained here, that recalibrated.

Each is used only where it beat the one before on the newest part of the installation's own history (`choice.py`,
`training.py`). The whole state is numbers, kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import ConflictError
from flexiroaster.safety.additive import AdditiveModel, model_from_json, score
from flexiroaster.safety.calibration import BetaCalibration
from flexiroaster.safety.features import NAMES
from flexiroaster.safety.prior import PRIOR, made_up_rows
from flexiroaster.safety.venn_abers import VennAbers

__all__ = ["Calibrated", "Prediction", "RiskModel", "Rung"]

Floats = NDArray[np.float64]

FORMAT = 1
NO_HISTORY = "no history yet: the prior alone"


class Rung(StrEnum):
    """Which model a probability comes from."""

    PRIOR = "prior"
    RECALIBRATED = "recalibrated_prior"
    LOCAL = "local"
    RECALIBRATED_LOCAL = "recalibrated_local"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A model, the curve that makes its score a probability, and how sure one may be of it.

    `steps` (Venn-Abers) are there as soon as enough runs of this installation stand behind them.
    """

    model: AdditiveModel
    curve: BetaCalibration = field(default_factory=BetaCalibration)
    steps: VennAbers | None = None

    def probabilities(self, rows: Floats) -> Floats:
        """P(failure) of each row."""
        return self.curve.apply(score(self.model, rows))

    def interval(self, row: Floats) -> tuple[float, float]:
        """The interval of P for one row; it always holds P itself."""
        value = score(self.model, row[None, :])
        low, high = (self.steps or self.curve).interval(float(value[0]))
        probability = float(self.curve.apply(value)[0])
        return min(low, probability), max(high, probability)

    def to_json(self) -> dict[str, Any]:
        """The model and its curve as JSON values."""
        steps = None if self.steps is None else self.steps.to_json()
        return {"model": self.model.to_json(), "curve": self.curve.to_json(), "steps": steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote. Raises ConflictError when this version cannot use it."""
        steps = None if data["steps"] is None else VennAbers.from_json(data["steps"])
        return cls(model_from_json(data["model"]), BetaCalibration.from_json(data["curve"]), steps)


@dataclass(frozen=True, slots=True)
class Prediction:
    """P(failure) with its interval, which model gave it, and why that one."""

    probability: float
    low: float
    high: float
    rung: Rung
    reason: str


@dataclass(frozen=True)
class RiskModel:
    """All that the engine has learned of an installation. `background` are starts that explanations compare with.

    `local_since` is the newest end that the local model was fitted on, in seconds since 1970: what it says of runs that
    ended later can be judged.
    """

    recalibrated: Calibrated = field(default_factory=lambda: Calibrated(PRIOR))
    local: Calibrated | None = None
    local_since: float | None = None
    recalibrated_local: Calibrated | None = None
    rung: Rung = Rung.PRIOR
    reason: str = NO_HISTORY
    background: Floats = field(default_factory=made_up_rows)
    runs_at_refresh: int = 0
    runs_at_training: int = 0

    def on(self, rung: Rung) -> Calibrated | None:
        """The model of a rung, if there is one."""
        models = {
            Rung.PRIOR: Calibrated(PRIOR),
            Rung.RECALIBRATED: self.recalibrated,
            Rung.LOCAL: self.local,
            Rung.RECALIBRATED_LOCAL: self.recalibrated_local,
        }
        return models[rung]

    @property
    def chosen(self) -> Calibrated:
        """The model that answers."""
        return self.on(self.rung) or self.recalibrated

    def predict(self, row: Floats) -> Prediction:
        """P(failure) of one start from its features."""
        low, high = self.chosen.interval(row)
        return Prediction(float(self.chosen.probabilities(row[None, :])[0]), low, high, self.rung, self.reason)

    def probabilities(self, rows: Floats) -> dict[Rung, Floats]:
        """What every model says; NaN where there is none. Kept with each start, it decides the choice later."""
        models = {rung: self.on(rung) for rung in Rung}
        nothing = np.full(len(rows), np.nan)
        return {rung: nothing if model is None else model.probabilities(rows) for rung, model in models.items()}

    @cached_property
    def background_components(self) -> Floats:
        """What each group adds to the chosen model's score at each start of the background."""
        return self.chosen.model.components(self.background)

    @cached_property
    def version(self) -> str:
        """Twelve characters that change when anything that decides a probability changes."""
        decisive = json.dumps({**self.chosen.to_json(), "rung": self.rung}, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The whole state as JSON values."""
        return {
            "format": FORMAT,
            "features": list(NAMES),
            "recalibrated": _without_model(self.recalibrated),
            "local": None if self.local is None else self.local.to_json(),
            "local_since": self.local_since,
            "recalibrated_local": None if self.recalibrated_local is None else _without_model(self.recalibrated_local),
            "rung": self.rung.value,
            "reason": self.reason,
            "background": self.background.tolist(),
            "runs_at_refresh": self.runs_at_refresh,
            "runs_at_training": self.runs_at_training,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote. Raises ConflictError when this version cannot use it."""
        if data.get("format") != FORMAT or tuple(data.get("features", ())) != NAMES:
            raise ConflictError("The stored risk model is of another version; train it again")
        recalibrated = {**data["recalibrated"], "model": PRIOR.to_json()}
        curve = data.get("recalibrated_local")  # models of earlier releases have none
        return cls(
            recalibrated=Calibrated.from_json(recalibrated),
            local=None if data["local"] is None else Calibrated.from_json(data["local"]),
            local_since=data.get("local_since"),
            recalibrated_local=None
            if curve is None
            else Calibrated.from_json({**curve, "model": data["local"]["model"]}),
            rung=Rung(data["rung"]),
            reason=data["reason"],
            background=np.array(data["background"], dtype=np.float64),
            runs_at_refresh=data["runs_at_refresh"],
            runs_at_training=data["runs_at_training"],
        )

    def with_local(self, local: Calibrated, since: float, reason: str) -> Self:
        """A new local model answers; it was fitted on what had ended until `since`, and is not recalibrated yet."""
        new = replace(self, local=local, local_since=since, recalibrated_local=None)
        return new.with_choice(Rung.LOCAL, reason)

    def with_choice(self, rung: Rung, reason: str) -> Self:
        """The same models, another of them answering."""
        return replace(self, rung=rung, reason=reason)


def _without_model(calibrated: Calibrated) -> dict[str, Any]:
    """Curve and steps as JSON values; the model itself is stored elsewhere."""
    return {**calibrated.to_json(), "model": None}
