"""The answer before a run: how likely it fails, why, how high that is called, and what is recommended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.explain import explain_probability, explain_score
from flexiroaster.safety.explanation import Explanation
from flexiroaster.safety.factors import FactorScore, factor_score
from flexiroaster.safety.features import NAMES, Past, features
from flexiroaster.safety.gate import Gate, RiskLevel, Thresholds
from flexiroaster.safety.model import Prediction, RiskModel
from flexiroaster.safety.runs import Start

__all__ = ["Assessment", "Question", "assess", "judged"]


@dataclass(frozen=True, slots=True)
class Question:
    """A start, what is known of the past, and with what it is judged."""

    start: Start
    past: Past = field(default_factory=Past)
    model: RiskModel = field(default_factory=RiskModel)
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The whole answer. `score` needs no training; `prediction` is calibrated; `gate` follows from the prediction."""

    question: Question
    features: dict[str, float]
    prediction: Prediction
    score: FactorScore
    level: RiskLevel
    gate: Gate
    recommendations: tuple[str, ...]
    explanation: Explanation
    score_explanation: Explanation
    model_version: str

    @property
    def no_history_yet(self) -> bool:
        """Whether this pipeline has never run to an end, so that the number is about others."""
        return self.question.past.pipeline.runs == 0

    def data(self) -> dict[str, Any]:
        """The answer as strict JSON values, to be stored with the execution."""
        return {
            "pipeline_id": self.question.start.pipeline_id,
            "probability": asdict(self.prediction),
            "no_history_yet": self.no_history_yet,
            "risk_score": self.score.score,
            "factors": [{**asdict(f), "contribution": f.contribution} for f in self.score.factors],
            "risk_level": self.level.value,
            "gate": self.gate.value,
            "recommendations": list(self.recommendations),
            "explanation": self.explanation.data(),
            "model_version": self.model_version,
            "features": self.features,
        }


def assess(question: Question) -> Assessment:
    """Judge a start, from what had ended before it."""
    return judged(question, np.array(features(question.start, question.past)))


def judged(question: Question, row: NDArray[np.float64]) -> Assessment:
    """Judge a start with these features, whatever the past says."""
    start, past, model = question.start, question.past, question.model
    prediction, score = model.predict(row), factor_score(start, past.pipeline)
    explanation = explain_probability(model, row, start, past)
    level = question.thresholds.level(prediction.probability)
    gate = question.thresholds.gate(prediction.probability, has_run=past.pipeline.runs > 0)
    return Assessment(
        question=question,
        features=dict(zip(NAMES, row.tolist(), strict=True)),
        prediction=prediction,
        score=score,
        level=level,
        gate=gate,
        recommendations=tuple(_recommendations(gate, explanation, past)),
        explanation=explanation,
        score_explanation=explain_score(score, start),
        model_version=model.version,
    )


_ADVICE = {
    "recent failures": "Look at the errors of the last runs before starting it again.",
    "streak": "It keeps failing: find the cause before another run.",
    "overall rate": "It has always failed often: a retry policy or a validation stage may help.",
    "experience": "It has hardly run yet: try it on a small sample first.",
    "rhythm": "It is long since the last success, or an unusual time: check that its sources are there.",
    "duration": "Its durations have changed: check the amount of data and the timeouts.",
    "surroundings": "Others fail as well at present: check what they share.",
    "shape": "Many stages can fail: consider splitting the pipeline.",
}
_ANSWER = {
    Gate.ALLOW: "Start it.",
    Gate.WARN: "Start it, and watch it.",
    Gate.APPROVE: "It starts paused; somebody should look at it and resume it.",
    Gate.BLOCK: "It is blocked; force it with a reason if it must run.",
}


def _recommendations(gate: Gate, explanation: Explanation, past: Past) -> list[str]:
    found = [_ANSWER[gate]]
    if gate is not Gate.ALLOW:
        raising = sorted((c for c in explanation.contributions if c.amount > 0.02), key=lambda c: -c.amount)
        found += [_ADVICE[c.name] for c in raising[:3]]
    if past.pipeline.runs == 0:
        found.append("There is no history of it yet: the probability is that of other pipelines.")
    return found
