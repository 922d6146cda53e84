"""Risk assessments: the failure probability of a run before it starts, and the stored assessments of past starts."""

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
from flexiroaster.safety.risk.assessment import Assessment, AssessmentInput, Gate, RiskLevel
from flexiroaster.safety.risk.assessment import assess as answer
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

__all__ = [
    "Assessment",
    "AssessmentInput",
    "AssessmentRow",
    "StoredAssessment",
    "admit",
    "assess",
    "before_start",
    "check_force",
    "of_executions",
    "question",
]


STALE_SECONDS = 0.25
"""The maximum age of the past used to assess a start: many simultaneous starts cause one query."""

BATCHES_AT_START = 1
BATCHES_WHEN_ASKED = 20


@dataclass(frozen=True, slots=True)
class StoredAssessment:
    """An assessment as stored with each start: its JSON values, every model's prediction (`said`, used later to choose
    the model that answers), and the explanation in words.
    """

    assessment: Assessment
    data: dict[str, Any]
    said: dict[str, float]
    text: str


def assess(installation: Installation, pipeline_id: str, variables: Mapping[str, Any] | None = None) -> Assessment:
    """Assess a start of a pipeline now, from all finished runs. `variables` are only validated; no model uses them.

    Raises NotFoundError, DefinitionError (variables), StoreError.
    """
    revision = pipelines.get(installation, pipeline_id)
    if variables is not None:
        merged = {**revision.pipeline.variables, **variables}
        definition.check_variables(revision.pipeline, installation.access, merged)
    return answer(question(installation, revision.pipeline))


def question(installation: Installation, pipeline: Pipeline) -> AssessmentInput:
    """Return the input for assessing a pipeline that starts now, for example for `what_if`. Raises StoreError."""
    installation.knowledge.catch_up(batches=BATCHES_WHEN_ASKED)
    return _question(installation, pipeline)


def before_start(installation: Installation, pipeline: Pipeline, revision: int) -> StoredAssessment:
    """Assess a run that is about to start; repeated calls within a second share one result. Raises StoreError."""
    knowledge = installation.knowledge
    knowledge.catch_up(no_older_than=STALE_SECONDS, batches=BATCHES_AT_START)
    return knowledge.cached_briefly(
        (pipeline.id, revision), lambda: _judgement(answer(_question(installation, pipeline)))
    )


def _judgement(said: Assessment) -> StoredAssessment:
    row = np.array([[said.features[name] for name in FEATURES]])
    known = {rung.value: float(values[0]) for rung, values in said.input.model.probabilities(row).items()}
    answered = {name: value for name, value in known.items() if not np.isnan(value)}
    return StoredAssessment(
        said, said.data(), answered | {"engine": said.prediction.probability}, said.explanation.text
    )


def of_executions(installation: Installation, execution_ids: Collection[str]) -> dict[str, AssessmentRow]:
    """Return the assessments of these executions by id; unassessed executions are missing. Raises StoreError."""
    return risk.by_executions(installation.database, execution_ids)


def _question(installation: Installation, pipeline: Pipeline) -> AssessmentInput:
    knowledge, rules = installation.knowledge, rules_of(pipeline, installation.settings)
    start = Start(str(pipeline.id), time(), len(pipeline.stages))
    return AssessmentInput(start, knowledge.past(start.pipeline_id), knowledge.model, rules.thresholds)


# The risk gate before a run: starts it, starts it with a warning or paused for approval, or blocks it.
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Admission:
    """A run that may start: its assessment, and how it starts (`action` is never BLOCK)."""

    judgement: StoredAssessment
    action: Gate
    shadow: bool
    forced: str | None

    @property
    def assessment(self) -> Assessment:
        """The assessment of the run."""
        return self.judgement.assessment

    def applied_to(self, new: NewExecution) -> NewExecution:
        """Return the execution with the assessment and its event added, an insight at high risk, and paused if it needs
        approval.
        """
        told = Event(
            new.execution_id,
            2,
            EventType.RISK_ASSESSED,
            self._message(),
            level=Level.DEBUG if self.assessment.gate is Gate.ALLOW else Level.WARNING,
            data=self._event_data(),
        )
        paused, high = self.action is Gate.APPROVE, self.assessment.level is RiskLevel.HIGH
        return replace(
            new,
            paused=paused,
            assessment=self._row(),
            more_events=(told, _approval_pending_event(new.execution_id)) if paused else (told,),
            findings=(high_risk(self.assessment, new.execution_id, self.action),) if high else (),
        )

    def _message(self) -> str:
        said = self.assessment
        told = f"Risk {said.level}: {self.judgement.text} Gate: {said.gate}"
        if said.no_history_yet:
            told += "; no history yet"
        if self.forced is not None:
            return f"{told}; forced: {self.forced}"
        return f"{told}; only recorded (shadow mode)" if self.shadow else told

    def _event_data(self) -> dict[str, Any]:
        data = self.judgement.data
        kept = ("probability", "no_history_yet", "risk_score", "risk_level", "gate", "recommendations", "model_version")
        return {name: data[name] for name in kept} | {"acted": not self.shadow, "forced": self.forced}

    def _row(self) -> NewAssessment:
        said = self.assessment
        return NewAssessment(
            at=utc_now(),
            risk_score=said.score.score,
            probability=said.prediction.probability,
            level=said.level,
            gate=said.gate,
            acted=not self.shadow,
            forced=self.forced,
            said=self.judgement.said,
            data=self.judgement.data,
        )


def admit(installation: Installation, revision: Revision, new: NewExecution, force: str | None = None) -> NewExecution:
    """Pass a new execution through the gate and return it as it may be created. `force` is the reason for starting it
    even if the gate blocks it or requires approval.

    Raises BlockedError, InputError (a blank reason), StoreError.
    """
    check_force(force)
    judgement = before_start(installation, revision.pipeline, revision.revision)
    said = judgement.assessment
    shadow = rules_of(revision.pipeline, installation.settings).shadow
    if said.gate not in {Gate.APPROVE, Gate.BLOCK}:
        return _Admission(judgement, said.gate, shadow, None).applied_to(new)
    if shadow or force is not None:
        return _Admission(judgement, Gate.WARN, shadow, None if shadow else force).applied_to(new)
    if said.gate is Gate.BLOCK:
        _record_blocked_insight(installation, said)
        raise _blocked(revision.id, said)
    return _Admission(judgement, Gate.APPROVE, shadow, None).applied_to(new)


def check_force(force: str | None) -> None:
    """Raise InputError if the reason for forcing a start is blank."""
    if force is not None and not force.strip():
        raise InputError("force: must contain a reason", argument="force")


def _blocked(pipeline_id: str, said: Assessment) -> BlockedError:
    chance = f"its failure probability is {said.prediction.probability:.2f}"
    message = f"Pipeline {pipeline_id} is blocked: {chance}. {said.explanation.text} Force it with a reason to run it"
    return BlockedError(message, pipeline_id=pipeline_id, risk=said.data())


def _record_blocked_insight(installation: Installation, said: Assessment) -> None:
    """Record an insight about the blocked run. A failure here must not change the answer: the run stays blocked."""
    try:
        with installation.database.write() as connection:
            insights.record(connection, high_risk(said, None, Gate.BLOCK), utc_now())
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning("cannot record the insight about a blocked run: %s", error)


def _approval_pending_event(execution_id: str) -> Event:
    message = "Execution paused: its risk is high; resume it to approve the run"
    return Event(execution_id, 3, EventType.EXECUTION_PAUSED, message, level=Level.WARNING)
