"""The risk assessment before a run: failure probability, explanation, risk level, gate answer and recommendations."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiroaster.safety.explain import explain_probability, explain_score
from flexiroaster.safety.features import NAMES, Past, features
from flexiroaster.safety.gate import Gate, RiskLevel, Thresholds
from flexiroaster.safety.risk.explanation import Explanation
from flexiroaster.safety.risk.factors import FactorScore, factor_score
from flexiroaster.safety.risk.model import Prediction, RiskModel
from flexiroaster.safety.runs import Start

__all__ = ["Assessment", "Question", "assess", "judged"]


@dataclass(frozen=True, slots=True)
class Question:
    """The input of an assessment: a run start, the past known at that time, the model and the thresholds."""

    start: Start
    past: Past = field(default_factory=Past)
    model: RiskModel = field(default_factory=RiskModel)
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A risk assessment. `score` needs no training; `prediction` is calibrated and determines `level` and `gate`."""

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
        """Whether no run of this pipeline has ended yet, so the probability comes from other pipelines."""
        return self.question.past.pipeline.runs == 0

    def data(self) -> dict[str, Any]:
        """Return the assessment as strict JSON values, to be stored with the execution."""
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
    """Assess a run start from the runs that ended before it."""
    return judged(question, np.array(features(question.start, question.past)))


def judged(question: Question, row: NDArray[np.float64]) -> Assessment:
    """Assess a run start with the given features instead of those computed from the past."""
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
    "recent failures": "Check the errors of the last runs before you start it again.",
    "streak": "It keeps failing: find the cause before the next run.",
    "overall rate": "It fails often overall: a retry policy or a validation stage may help.",
    "experience": "It has few past runs: try it on a small sample first.",
    "rhythm": "The last success was long ago, or the start time is unusual: check that its sources are available.",
    "duration": "Its durations have changed: check the data volume and the timeouts.",
    "surroundings": "Other pipelines are failing too: check what they have in common.",
    "shape": "It has many stages that can fail: consider splitting the pipeline.",
}
_ANSWER = {
    Gate.ALLOW: "Start it.",
    Gate.WARN: "Start it and monitor it.",
    Gate.APPROVE: "It starts paused: review it, then resume it.",
    Gate.BLOCK: "It is blocked: if it must run, force the start with a reason.",
}


def _recommendations(gate: Gate, explanation: Explanation, past: Past) -> list[str]:
    found = [_ANSWER[gate]]
    if gate is not Gate.ALLOW:
        raising = sorted((c for c in explanation.contributions if c.amount > 0.02), key=lambda c: -c.amount)
        found += [_ADVICE[c.name] for c in raising[:3]]
    if past.pipeline.runs == 0:
        found.append("It has no history yet: the probability comes from other pipelines.")
    return found
