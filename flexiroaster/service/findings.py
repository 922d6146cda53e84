"""What the safety engine finds, in words for people: one finding a cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.safety.anomaly import Anomaly, AnomalyKind
from flexiroaster.safety.gate import Gate, RiskLevel
from flexiroaster.store.insights import Finding
from flexiroaster.store.run_history import PastRun

if TYPE_CHECKING:
    from flexiroaster.safety.assessment import Assessment

__all__ = [
    "ANOMALIES",
    "ERROR_BURST",
    "HIGH_RISK",
    "anomaly_cause",
    "anomaly_of_event",
    "burst",
    "causes_gone",
    "high_risk",
]

HIGH_RISK, ERROR_BURST = "high_risk", "error_burst"

ANOMALIES = (AnomalyKind.LATE.value, AnomalyKind.VOLUME.value, AnomalyKind.RETRIES.value)
"""The types of insights about what was abnormal while a run went on."""

_TOLD = {
    AnomalyKind.LATE: (
        "Stage {stage} of {pipeline} takes unusually long",
        "Look at the amount of data it gets, and at what else runs on the machine.",
    ),
    AnomalyKind.VOLUME: (
        "Stage {stage} of {pipeline} gives an unusual amount of data",
        "Look at what has changed at its source.",
    ),
    AnomalyKind.RETRIES: (
        "Attempts of {pipeline} are repeated unusually often",
        "Look at the errors before the repetitions: what it reaches outside may be failing.",
    ),
}

_ACTIONS = {
    Gate.WARN: "started with a warning",
    Gate.APPROVE: "started paused, until somebody resumes it",
    Gate.BLOCK: "blocked",
}

_ADVICE = {
    "transient": "What it reaches outside does not answer: look there first.",
    "timeout": "Its stages do not end in time: look at the amount of data and at the limits.",
    "crash": "Its processes die: look at the memory they need and at the code they run.",
    "resource": "Memory or disk runs out: look at the amount of data and at what else runs.",
    "data": "The data is not what it needs: look at what has changed at the source.",
    "code": "Its code or its expressions are wrong: a repetition does not help.",
    "configuration": "It asks for what is not there or not permitted: look at its definition and the settings.",
}


def anomaly_cause(kind: AnomalyKind, pipeline_id: str, stage_id: str | None) -> str:
    """What findings about the same thing have in common."""
    stage = f":{stage_id}" if kind is not AnomalyKind.RETRIES else ""
    return f"{kind.value}:{pipeline_id}{stage}"


def anomaly_of_event(pipeline_id: str, execution_id: str, data: Mapping[str, Any]) -> Finding | None:
    """What an event about something abnormal (its data, with `stage_id`) tells people; None while a cooldown lasts."""
    if not data.get("alert"):
        return None
    kind, stage_id = AnomalyKind(data["kind"]), data.get("stage_id")
    title, advice = _TOLD[kind]
    decision = data.get("decision") or {}
    return Finding(
        cause=anomaly_cause(kind, pipeline_id, stage_id),
        insight_type=kind.value,
        severity="high" if decision.get("taken") == "pause" else "medium",
        title=title.format(stage=stage_id, pipeline=pipeline_id),
        message=f"{pipeline_id}, stage {stage_id}: {data['message']}",
        recommendation=advice,
        confidence=0.9,
        pipeline_id=pipeline_id,
        execution_id=execution_id,
        stage_id=None if kind is AnomalyKind.RETRIES else stage_id,
        action_taken="paused" if decision.get("taken") == "pause" else None,
    )


def burst(run: PastRun, anomaly: Anomaly) -> Finding:
    """Errors of one class come thick and fast in a pipeline."""
    kind = run.error_class or "unknown"
    return Finding(
        cause=f"{ERROR_BURST}:{run.pipeline_id}:{kind}",
        insight_type=ERROR_BURST,
        severity="high",
        title=f"Many {kind} errors in {run.pipeline_id}",
        message=f"{run.pipeline_id}: {anomaly.message} ({kind})",
        recommendation=_ADVICE.get(kind, "Look at the errors of the last runs."),
        confidence=0.9,
        pipeline_id=run.pipeline_id,
        execution_id=run.execution_id,
    )


def high_risk(assessment: Assessment, execution_id: str | None, acted: Gate) -> Finding:
    """A run is likely to fail; `acted` is what the gate did about it."""
    pipeline_id, said = assessment.question.start.pipeline_id, assessment.prediction
    width = said.high - said.low
    return Finding(
        cause=f"{HIGH_RISK}:{pipeline_id}",
        insight_type=HIGH_RISK,
        severity="critical" if said.probability >= 0.9 else RiskLevel.HIGH.value,
        title=f"{pipeline_id} is likely to fail",
        message=f"It fails with probability {said.probability:.2f} ({said.low:.2f} to {said.high:.2f}).",
        recommendation=" ".join(assessment.recommendations[1:]) or assessment.recommendations[0],
        confidence=round(max(0.0, min(1.0, 1.0 - width)), 3),
        pipeline_id=pipeline_id,
        execution_id=execution_id,
        risk_score=assessment.score.score,
        factors=assessment.data()["factors"],
        explanation=assessment.explanation.text,
        action_taken=_ACTIONS.get(acted, "started"),
    )


def causes_gone(runs: Iterable[PastRun]) -> list[str]:
    """A pipeline whose newest run of these completed is not in danger any more."""
    newest = {run.pipeline_id: run.status for run in runs if run.counts}
    return [f"{HIGH_RISK}:{name}" for name, status in newest.items() if status == ExecutionStatus.COMPLETED]
