"""The risk model: the prior, the prior recalibrated to this installation, a locally trained model, that recalibrated.

Each rung answers only if it beat the one before on the newest part of the installation's own history
(`learning/model_selection.py`, `learning/training.py`). The whole state consists of numbers and is stored as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property
from random import Random
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flexiroaster.errors import ConflictError
from flexiroaster.safety.risk.additive import AdditiveModel, LinearModel, model_from_json, score
from flexiroaster.safety.risk.calibration import BetaCalibration, VennAbers
from flexiroaster.safety.risk.factors import FEATURES, Ledger, features
from flexiroaster.safety.risk.state import HOUR, Ending, Outcome, Start

__all__ = ["PRIOR", "PRIOR_FEATURES", "Calibrated", "Prediction", "RiskModel", "Rung", "simulated_background"]


Floats = NDArray[np.float64]

FORMAT = 1

PRIOR = LinearModel(
    {
        "rate_2": 0.1659,
        "rate_5": 0.1410,
        "rate_15": 0.1199,
        "rate_all": 0.1121,
        "after_last": 0.1844,
        "failures_in_a_row": 0.3368,
        "successes_in_a_row": -0.0752,
        "log_hours_since_success": 0.0575,
        "log_runs": 0.0098,
        "first_run": -0.0801,
        "group_lead": 0.6272,
    },
    intercept=-0.5058,
)
"""The model that works without local training.

Fitted by `tools/prior_fit.py` on hpc_ctc, hpc_atlas and gitlab_dune together (121,698 runs with an outcome).
"""

PRIOR_FEATURES = tuple(PRIOR.coefficients)


class Rung(StrEnum):
    """The model that a probability comes from."""

    PRIOR = "prior"
    RECALIBRATED = "recalibrated_prior"
    LOCAL = "local"
    RECALIBRATED_LOCAL = "recalibrated_local"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A model, the calibration curve that turns its score into a probability, and the uncertainty of that probability.

    `steps` (Venn-Abers) are set once this installation has enough runs to support them.
    """

    model: AdditiveModel
    curve: BetaCalibration = field(default_factory=BetaCalibration)
    steps: VennAbers | None = None

    def probabilities(self, rows: Floats) -> Floats:
        """Return P(failure) of each row."""
        return self.curve.apply(score(self.model, rows))

    def interval(self, row: Floats) -> tuple[float, float]:
        """Return the interval of P for one row; it always contains P."""
        value = score(self.model, row[None, :])
        low, high = (self.steps or self.curve).interval(float(value[0]))
        probability = float(self.curve.apply(value)[0])
        return min(low, probability), max(high, probability)

    def to_json(self) -> dict[str, Any]:
        """Return the model and its calibration as JSON values."""
        steps = None if self.steps is None else self.steps.to_json()
        return {"model": self.model.to_json(), "curve": self.curve.to_json(), "steps": steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Restore from `to_json` output. Raises ConflictError if this version cannot use it."""
        steps = None if data["steps"] is None else VennAbers.from_json(data["steps"])
        return cls(model_from_json(data["model"]), BetaCalibration.from_json(data["curve"]), steps)


@dataclass(frozen=True, slots=True)
class Prediction:
    """P(failure) with its interval, the model that gave it, and the reason for choosing that model."""

    probability: float
    low: float
    high: float
    rung: Rung
    reason: str


@cache
def simulated_background() -> Floats:
    """Return the background for explanations before the first run: 100 starts of a simulated installation.

    It has forty pipelines with failure rates drawn from Beta(1, 4) and about one run per hour. The sample is fixed.
    """
    rng, ledger = Random(0), Ledger()  # noqa: S311 - a fixed sample, not used for security
    rates = [rng.betavariate(1, 4) for _ in range(40)]
    rows, now = [], 0.0
    for _ in range(1000):
        now += rng.expovariate(1.0) * HOUR
        number = rng.randrange(40)
        name, duration = f"pipeline {number}", 60.0 * rng.lognormvariate(0, 0.5)
        rows.append(features(Start(name, now, 5), ledger.past(name)))
        outcome = Outcome.FAILED if rng.random() < rates[number] else Outcome.COMPLETED
        ledger.add(name, Ending(now, outcome, duration))
    return np.array(rows[::10])


@dataclass(frozen=True)
class RiskModel:
    """Everything the engine has learned about an installation.

    `background` holds the starts that explanations compare with. `local_since` is the newest end time in the local
    model's training data (seconds since 1970); only its predictions for runs that ended later can be evaluated.
    """

    recalibrated: Calibrated = field(default_factory=lambda: Calibrated(PRIOR))
    local: Calibrated | None = None
    local_since: float | None = None
    recalibrated_local: Calibrated | None = None
    rung: Rung = Rung.PRIOR
    reason: str = "no history yet, so the prior answers"
    background: Floats = field(default_factory=simulated_background)
    runs_at_refresh: int = 0
    runs_at_training: int = 0

    def on(self, rung: Rung) -> Calibrated | None:
        """Return the model of a rung, or None."""
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
        """Predict P(failure) of one run start from its features."""
        probability = float(self.chosen.probabilities(row[None, :])[0])
        return Prediction(probability, *self.chosen.interval(row), self.rung, self.reason)

    def probabilities(self, rows: Floats) -> dict[Rung, Floats]:
        """Return every model's predictions, NaN for missing models. They are stored for later model selection."""
        models = {rung: self.on(rung) for rung in Rung}
        missing = np.full(len(rows), np.nan)
        return {rung: missing if model is None else model.probabilities(rows) for rung, model in models.items()}

    @cached_property
    def background_components(self) -> Floats:
        """Each group's contribution to the chosen model's score at each background start."""
        return self.chosen.model.components(self.background)

    @cached_property
    def version(self) -> str:
        """Twelve characters that change whenever something that affects the probabilities changes."""
        decisive = json.dumps({**self.chosen.to_json(), "rung": self.rung}, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the whole state as JSON values."""
        return {
            "format": FORMAT,
            "features": list(FEATURES),
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
        """Restore from `to_json` output. Raises ConflictError if this version cannot use it."""
        if data.get("format") != FORMAT or tuple(data.get("features", ())) != FEATURES:
            raise ConflictError("The stored risk model belongs to another version; retrain it")
        local, curve = data["local"], data.get("recalibrated_local")  # models of earlier releases have no curve
        return cls(
            recalibrated=Calibrated.from_json({**data["recalibrated"], "model": PRIOR.to_json()}),
            local=None if local is None else Calibrated.from_json(local),
            local_since=data.get("local_since"),
            recalibrated_local=None if curve is None else Calibrated.from_json({**curve, "model": local["model"]}),
            rung=Rung(data["rung"]),
            reason=data["reason"],
            background=np.array(data["background"], dtype=np.float64),
            runs_at_refresh=data["runs_at_refresh"],
            runs_at_training=data["runs_at_training"],
        )

    def with_local(self, local: Calibrated, since: float, reason: str) -> Self:
        """Return a copy that answers with a new local model, fitted on runs that ended until `since`."""
        new = replace(self, local=local, local_since=since, recalibrated_local=None)
        return new.with_choice(Rung.LOCAL, reason)

    def with_choice(self, rung: Rung, reason: str) -> Self:
        """Return a copy with the same models that answers from `rung`."""
        return replace(self, rung=rung, reason=reason)


def _without_model(calibrated: Calibrated) -> dict[str, Any]:
    """Return curve and steps as JSON values; the model itself is stored elsewhere."""
    return {**calibrated.to_json(), "model": None}
