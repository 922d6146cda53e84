"""The risk assessment before a run: failure probability, explanation, risk level, gate answer and recommendations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from flexiroaster.errors import DefinitionError, Problem
from flexiroaster.model.validation_messages import suggestion_hint
from flexiroaster.safety.policy import Gate, RiskLevel, Thresholds
from flexiroaster.safety.risk.explanation import Explanation, explain_probability, explain_score
from flexiroaster.safety.risk.factors import FEATURES, FactorScore, Past, factor_score, features
from flexiroaster.safety.risk.model import Prediction, RiskModel
from flexiroaster.safety.risk.state import HOUR, Ending, Outcome, PipelineState, Population, Start

__all__ = [
    "Assessment",
    "AssessmentInput",
    "RiskReduction",
    "assess",
    "risk_reductions",
    "what_if",
]

MIN_REDUCTION = 0.01
"""A change that lowers the probability by less is not worth a recommendation."""


@dataclass(frozen=True, slots=True)
class AssessmentInput:
    """The input of an assessment: a run start, the past known at that time, the model and the thresholds."""

    start: Start
    past: Past = field(default_factory=Past)
    model: RiskModel = field(default_factory=RiskModel)
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A risk assessment. `score` needs no training; `prediction` is calibrated and determines `level` and `gate`."""

    input: AssessmentInput
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
        return self.input.past.pipeline.runs == 0

    def data(self) -> dict[str, Any]:
        """Return the assessment as strict JSON values, to be stored with the execution."""
        return {
            "pipeline_id": self.input.start.pipeline_id,
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


def assess(given: AssessmentInput) -> Assessment:
    """Assess a run start from the runs that ended before it."""
    return _assess_features(given, features(given.start, given.past))


def _assess_features(given: AssessmentInput, values: Sequence[float]) -> Assessment:
    """Assess a run start with these features, whether or not the past has them."""
    start, past, model, row = given.start, given.past, given.model, np.array(values)
    prediction, score = model.predict(row), factor_score(start, past.pipeline)
    explanation = explain_probability(model, row, start, past)
    gate = given.thresholds.gate(prediction.probability, has_run=past.pipeline.runs > 0)
    return Assessment(
        input=given,
        features=dict(zip(FEATURES, row.tolist(), strict=True)),
        prediction=prediction,
        score=score,
        level=given.thresholds.level(prediction.probability),
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


# --- what-if analysis ---


@dataclass(frozen=True, slots=True)
class RiskReduction:
    """A change and the probability it leads to; `enough` if that is below the requested threshold."""

    change: dict[str, float]
    text: str
    probability: float
    enough: bool


def what_if(given: AssessmentInput, **changes: float) -> Assessment:
    """Assess the start with changes: `at` (seconds since 1970), `n_stages`, `successes_first` and `failures_first`
    (numbers of runs), or any feature. Raises DefinitionError for invalid changes.
    """
    _check(changes)
    start = replace(
        given.start,
        at=float(changes.get("at", given.start.at)),
        n_stages=int(changes["n_stages"]) if "n_stages" in changes else given.start.n_stages,
    )
    past = _after(given.past, start, int(changes.get("successes_first", 0)), int(changes.get("failures_first", 0)))
    computed = zip(FEATURES, features(start, past), strict=True)
    values = [float(changes.get(name, value)) for name, value in computed]
    return _assess_features(replace(given, start=start, past=past), values)


def risk_reductions(given: AssessmentInput, threshold: float | None = None) -> tuple[RiskReduction, ...]:
    """Find, per kind of change, the smallest that brings P below the threshold (default: medium), else the best one.

    The kinds are: successful runs first, a later start within a day, fewer stages. The best changes come first.
    """
    limit = given.thresholds.medium if threshold is None else threshold
    now = assess(given).prediction.probability
    found = [_smallest(given, options, limit) for options in _kinds(given.start)]
    helpful = [each for each in found if each is not None and each.probability < now - MIN_REDUCTION]
    return tuple(sorted(helpful, key=lambda each: (not each.enough, each.probability)))


Option = tuple[dict[str, float], str]


def _kinds(start: Start) -> Iterator[list[Option]]:
    yield [({"successes_first": n}, f"run it successfully {n} times first, on a small sample") for n in (1, 2, 3, 5, 8)]
    yield [({"at": start.at + h * HOUR}, f"start it {h} hours later") for h in (1, 2, 3, 6, 9, 12, 18, 24)]
    stages = start.n_stages or 0
    fewer = sorted({max(1, stages * part // 4) for part in (3, 2, 1)} - {stages}, reverse=True) if stages > 1 else []
    yield [({"n_stages": n}, f"split it into pipelines of {n} stages instead of {stages}") for n in fewer]


def _smallest(given: AssessmentInput, options: list[Option], limit: float) -> RiskReduction | None:
    best: RiskReduction | None = None
    for change, text in options:
        probability = what_if(given, **change).prediction.probability
        found = RiskReduction(change, text, probability, probability < limit)
        if found.enough:
            return found
        if best is None or probability < best.probability:
            best = found
    return best


def _check(changes: dict[str, float]) -> None:
    counts = ("n_stages", "successes_first", "failures_first")
    known = ("at", *counts, *FEATURES)
    unknown = [name for name in changes if name not in known]
    problems = [Problem(name, f"cannot be changed{suggestion_hint(name, known)}", "unknown") for name in unknown]
    problems += [Problem(name, "must be 0 or more") for name in counts if changes.get(name, 0) < 0]
    if problems:
        raise DefinitionError(problems)


def _after(past: Past, start: Start, successes: int, failures: int) -> Past:
    """Return the past with additional runs that ended just before the start."""
    if not successes and not failures:
        return past
    copy = Past(
        PipelineState.from_json(past.pipeline.to_json()),
        Population.from_json(past.group.to_json()),
        Population.from_json(past.installation.to_json()),
    )
    usual = past.pipeline.durations[-1] if past.pipeline.durations else None
    for outcome in [Outcome.FAILED] * failures + [Outcome.COMPLETED] * successes:
        copy.add(Ending(start.at, outcome, usual))
    return copy
