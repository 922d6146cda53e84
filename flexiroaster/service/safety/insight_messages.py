"""Insight messages: the texts of the safety engine's findings, one finding per cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.safety.anomaly.alarms import Anomaly, AnomalyKind
from flexiroaster.safety.policy import Gate, RiskLevel
from flexiroaster.safety.risk.assessment import Assessment
from flexiroaster.store.safety.history import PastRun
from flexiroaster.store.safety.insights import Finding

__all__ = [
    "ANOMALIES",
    "ERROR_BURST",
    "HIGH_RISK",
    "anomaly_cause",
    "anomaly_of_event",
    "burst",
    "high_risk",
    "resolved_causes",
]

HIGH_RISK, ERROR_BURST = "high_risk", "error_burst"

ANOMALIES = (AnomalyKind.LATE.value, AnomalyKind.VOLUME.value, AnomalyKind.RETRIES.value)
"""The insight types for anomalies during a run."""

_ANOMALY_TEXTS = {
    AnomalyKind.LATE: (
        "Stage {stage} of {pipeline} takes unusually long",
        "Check the volume of its input data and the load on the machine.",
    ),
    AnomalyKind.VOLUME: (
        "Stage {stage} of {pipeline} produces an unusual amount of data",
        "Check what has changed at its source.",
    ),
    AnomalyKind.RETRIES: (
        "Stages of {pipeline} are retried unusually often",
        "Check the errors before the retries: an external service may be failing.",
    ),
}

_ACTIONS = {
    Gate.WARN: "started with a warning",
    Gate.APPROVE: "started paused until a user resumes it",
    Gate.BLOCK: "blocked",
}

_ADVICE = {
    "transient": "An external service does not respond: check that service first.",
    "timeout": "Its stages exceed their time limits: check the data volume and the limits.",
    "crash": "Its processes crash: check their memory use and the code they run.",
    "resource": "Memory or disk space runs out: check the data volume and the other load on the machine.",
    "data": "The data is not what the pipeline expects: check what has changed at the source.",
    "code": "Its code or its expressions contain an error: retrying does not help.",
    "configuration": "It refers to something missing or not permitted: check its definition and the settings.",
}


def anomaly_cause(kind: AnomalyKind, pipeline_id: str, stage_id: str | None) -> str:
    """Return the cause key that findings about the same anomaly share."""
    stage = f":{stage_id}" if kind is not AnomalyKind.RETRIES else ""
    return f"{kind.value}:{pipeline_id}{stage}"


def anomaly_of_event(pipeline_id: str, execution_id: str, data: Mapping[str, Any]) -> Finding | None:
    """Return the finding for an anomaly event's data (with `stage_id`); None during a cooldown."""
    if not data.get("alert"):
        return None
    kind, stage_id = AnomalyKind(data["kind"]), data.get("stage_id")
    title, advice = _ANOMALY_TEXTS[kind]
    paused = (data.get("decision") or {}).get("taken") == "pause"
    return Finding(
        cause=anomaly_cause(kind, pipeline_id, stage_id),
        insight_type=kind.value,
        severity="high" if paused else "medium",
        title=title.format(stage=stage_id, pipeline=pipeline_id),
        message=f"{pipeline_id}, stage {stage_id}: {data['message']}",
        recommendation=advice,
        confidence=0.9,
        pipeline_id=pipeline_id,
        execution_id=execution_id,
        stage_id=None if kind is AnomalyKind.RETRIES else stage_id,
        action_taken="paused" if paused else None,
    )


def burst(run: PastRun, anomaly: Anomaly) -> Finding:
    """Return the finding for an error rate spike: many errors of one class in a pipeline."""
    kind = run.error_class or "unknown"
    return Finding(
        cause=f"{ERROR_BURST}:{run.pipeline_id}:{kind}",
        insight_type=ERROR_BURST,
        severity="high",
        title=f"Error rate spike in {run.pipeline_id}: many {kind} errors",
        message=f"{run.pipeline_id}: {anomaly.message} ({kind})",
        recommendation=_ADVICE.get(kind, "Check the errors of the last runs."),
        confidence=0.9,
        pipeline_id=run.pipeline_id,
        execution_id=run.execution_id,
    )


def high_risk(assessment: Assessment, execution_id: str | None, acted: Gate) -> Finding:
    """Return the finding for a run that is likely to fail; `acted` is the gate's action."""
    pipeline_id, predicted = assessment.input.start.pipeline_id, assessment.prediction
    width = predicted.high - predicted.low
    return Finding(
        cause=f"{HIGH_RISK}:{pipeline_id}",
        insight_type=HIGH_RISK,
        severity="critical" if predicted.probability >= 0.9 else RiskLevel.HIGH.value,
        title=f"{pipeline_id} is likely to fail",
        message=f"It fails with probability {predicted.probability:.2f} ({predicted.low:.2f} to {predicted.high:.2f}).",
        recommendation=" ".join(assessment.recommendations[1:]) or assessment.recommendations[0],
        confidence=round(max(0.0, min(1.0, 1.0 - width)), 3),
        pipeline_id=pipeline_id,
        execution_id=execution_id,
        risk_score=assessment.score.score,
        factors=assessment.data()["factors"],
        explanation=assessment.explanation.text,
        action_taken=_ACTIONS.get(acted, "started"),
    )


def resolved_causes(runs: Iterable[PastRun]) -> list[str]:
    """Return the high-risk causes that are gone: those of pipelines whose newest run completed."""
    newest = {run.pipeline_id: run.status for run in runs if run.counts}
    return [f"{HIGH_RISK}:{name}" for name, status in newest.items() if status == ExecutionStatus.COMPLETED]
