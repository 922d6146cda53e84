"""Risk assessments of runs before they start, the gate that acts on them, and the stored assessments of past starts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from time import time
from typing import Any

import numpy as np

from flexiroaster.errors import BlockedError, InputError
from flexiroaster.model.event import Event, EventType, Level, utc_now
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.policy import Gate, RiskLevel
from flexiroaster.safety.risk import assessment
from flexiroaster.safety.risk.assessment import Assessment, AssessmentInput
from flexiroaster.safety.risk.factors import FEATURES
from flexiroaster.safety.risk.state import Start
from flexiroaster.service import definition, pipelines
from flexiroaster.service.installation import Installation
from flexiroaster.service.pipelines import Revision
from flexiroaster.service.safety.config import rules_of
from flexiroaster.service.safety.insight_messages import high_risk
from flexiroaster.store.journal.transitions import NewAssessment, NewExecution
from flexiroaster.store.safety import insights, risk
from flexiroaster.store.safety.risk import AssessmentRow

__all__ = ["Assessment", "AssessmentRow", "admit", "assess", "of_executions"]

logger = logging.getLogger(__name__)

STALE_SECONDS = 0.25
"""The maximum age of the past used to assess a start: many simultaneous starts cause one query."""

BATCHES_AT_START = 1
BATCHES_WHEN_ASKED = 20

EVENT_FIELDS = (
    "probability",
    "no_history_yet",
    "risk_score",
    "risk_level",
    "gate",
    "recommendations",
    "model_version",
)
"""The values of an assessment that its event repeats."""


def assess(installation: Installation, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> Assessment:
    """Assess a start of a pipeline now, from all finished runs. `variables` are only validated; no model uses them.

    Raises NotFoundError, DefinitionError (variables), StoreError.
    """
    pipeline = pipelines.get(installation, pipeline_id).pipeline
    if variables is not None:
        definition.check_variables(pipeline, installation.access, {**pipeline.variables, **variables})
    installation.risk_state.catch_up(batches=BATCHES_WHEN_ASKED)
    return _assess_now(installation, pipeline)


def of_executions(installation: Installation, execution_ids: Collection[str]) -> dict[str, AssessmentRow]:
    """Return the assessments of these executions by id; unassessed executions are missing. Raises StoreError."""
    return risk.by_executions(installation.database, execution_ids)


def _assess_now(installation: Installation, pipeline: Pipeline) -> Assessment:
    risk_state, rules = installation.risk_state, rules_of(pipeline, installation.settings)
    start = Start(str(pipeline.id), time(), len(pipeline.stages))
    past = risk_state.past(start.pipeline_id)
    return assessment.assess(AssessmentInput(start, past, risk_state.model, rules.thresholds))


# --- the gate before a run ---


def admit(installation: Installation, revision: Revision, new: NewExecution, force: str | None = None) -> NewExecution:
    """Pass a new execution through the gate and return it as it may be created. `force` is the reason for starting it
    even if the gate blocks it or requires approval.

    Raises BlockedError, InputError (a blank reason), StoreError.
    """
    if force is not None and not force.strip():
        raise InputError("force: must contain a reason", argument="force")
    stored = _assess_start(installation, revision.pipeline, revision.revision)
    shadow = rules_of(revision.pipeline, installation.settings).shadow
    action, forced = stored.assessment.gate, None
    if action in {Gate.APPROVE, Gate.BLOCK} and (shadow or force is not None):
        action, forced = Gate.WARN, None if shadow else force
    if action is Gate.BLOCK:
        _record_blocked_insight(installation, stored.assessment)
        raise _blocked(revision.id, stored.assessment)
    return _admitted(new, stored, action, shadow=shadow, forced=forced)


@dataclass(frozen=True, slots=True)
class _StoredAssessment:
    """An assessment as stored with each start: its JSON values, every model's prediction (used later to choose the
    model that answers), and the explanation in words.
    """

    assessment: Assessment
    data: dict[str, Any]
    predictions: dict[str, float]
    text: str


def _assess_start(installation: Installation, pipeline: Pipeline, revision: int) -> _StoredAssessment:
    """Assess a run that is about to start; repeated calls within a second share one result."""
    risk_state = installation.risk_state
    risk_state.catch_up(no_older_than=STALE_SECONDS, batches=BATCHES_AT_START)

    def make() -> _StoredAssessment:
        found = _assess_now(installation, pipeline)
        row = np.array([[found.features[name] for name in FEATURES]])
        by_rung = {rung.value: float(p[0]) for rung, p in found.input.model.probabilities(row).items()}
        predictions = {name: p for name, p in by_rung.items() if not np.isnan(p)}
        predictions["engine"] = found.prediction.probability
        return _StoredAssessment(found, found.data(), predictions, found.explanation.text)

    return risk_state.cached_briefly((pipeline.id, revision), make)


def _admitted(
    new: NewExecution, stored: _StoredAssessment, action: Gate, *, shadow: bool, forced: str | None
) -> NewExecution:
    """Return the execution with the assessment and its event added, an insight at high risk, and paused if it needs
    approval.
    """
    found, paused = stored.assessment, action is Gate.APPROVE
    assessed = Event(
        new.execution_id,
        2,
        EventType.RISK_ASSESSED,
        _message(stored, shadow=shadow, forced=forced),
        level=Level.DEBUG if found.gate is Gate.ALLOW else Level.WARNING,
        data={name: stored.data[name] for name in EVENT_FIELDS} | {"acted": not shadow, "forced": forced},
    )
    row = NewAssessment(
        at=utc_now(),
        risk_score=found.score.score,
        probability=found.prediction.probability,
        level=found.level,
        gate=found.gate,
        acted=not shadow,
        forced=forced,
        said=stored.predictions,
        data=stored.data,
    )
    return replace(
        new,
        paused=paused,
        assessment=row,
        more_events=(assessed, _approval_pending_event(new.execution_id)) if paused else (assessed,),
        findings=(high_risk(found, new.execution_id, action),) if found.level is RiskLevel.HIGH else (),
    )


def _message(stored: _StoredAssessment, *, shadow: bool, forced: str | None) -> str:
    found = stored.assessment
    message = f"Risk {found.level}: {stored.text} Gate: {found.gate}"
    if found.no_history_yet:
        message += "; no history yet"
    if forced is not None:
        return f"{message}; forced: {forced}"
    return f"{message}; only recorded (shadow mode)" if shadow else message


def _blocked(pipeline_id: str, found: Assessment) -> BlockedError:
    chance = f"its failure probability is {found.prediction.probability:.2f}"
    message = f"Pipeline {pipeline_id} is blocked: {chance}. {found.explanation.text} Force it with a reason to run it"
    return BlockedError(message, pipeline_id=pipeline_id, risk=found.data())


def _record_blocked_insight(installation: Installation, found: Assessment) -> None:
    """Record an insight about the blocked run. A failure here must not change the answer: the run stays blocked."""
    try:
        with installation.database.write() as connection:
            insights.record(connection, high_risk(found, None, Gate.BLOCK), utc_now())
    except Exception as error:  # noqa: BLE001 - see above
        logger.warning("cannot record the insight about a blocked run: %s", error)


def _approval_pending_event(execution_id: str) -> Event:
    message = "Execution paused: its risk is high; resume it to approve the run"
    return Event(execution_id, 3, EventType.EXECUTION_PAUSED, message, level=Level.WARNING)
