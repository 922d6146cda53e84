"""Risk assessments: the failure probability of a run before it starts, and the stored assessments of past starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

import numpy as np

from flexiroaster.model.pipeline import Pipeline
from flexiroaster.safety.features import NAMES
from flexiroaster.safety.risk.assessment import Assessment, Question
from flexiroaster.safety.risk.assessment import assess as answer
from flexiroaster.safety.runs import Start
from flexiroaster.service import pipelines
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety.config import rules_of
from flexiroaster.store import assessments
from flexiroaster.store.assessments import AssessmentRow

__all__ = [
    "Assessment",
    "AssessmentRow",
    "Judgement",
    "Question",
    "assess",
    "before_start",
    "of_executions",
    "question",
]

STALE_SECONDS = 0.25
"""The maximum age of the past used to assess a start: many simultaneous starts cause one query."""

BATCHES_AT_START = 1
BATCHES_WHEN_ASKED = 20


@dataclass(frozen=True, slots=True)
class Judgement:
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
        pipelines.check_variables(revision.pipeline, installation.access, merged)
    return answer(question(installation, revision.pipeline))


def question(installation: Installation, pipeline: Pipeline) -> Question:
    """Return the input for assessing a pipeline that starts now, for example for `what_if`. Raises StoreError."""
    installation.knowledge.catch_up(batches=BATCHES_WHEN_ASKED)
    return _question(installation, pipeline)


def before_start(installation: Installation, pipeline: Pipeline, revision: int) -> Judgement:
    """Assess a run that is about to start; repeated calls within a second share one result. Raises StoreError."""
    knowledge = installation.knowledge
    knowledge.catch_up(no_older_than=STALE_SECONDS, batches=BATCHES_AT_START)
    return knowledge.for_a_moment(
        (pipeline.id, revision), lambda: _judgement(answer(_question(installation, pipeline)))
    )


def _judgement(said: Assessment) -> Judgement:
    row = np.array([[said.features[name] for name in NAMES]])
    known = {rung.value: float(values[0]) for rung, values in said.question.model.probabilities(row).items()}
    answered = {name: value for name, value in known.items() if not np.isnan(value)}
    return Judgement(said, said.data(), answered | {"engine": said.prediction.probability}, said.explanation.text)


def of_executions(installation: Installation, execution_ids: Collection[str]) -> dict[str, AssessmentRow]:
    """Return the assessments of these executions by id; unassessed executions are missing. Raises StoreError."""
    return assessments.by_executions(installation.database, execution_ids)


def _question(installation: Installation, pipeline: Pipeline) -> Question:
    knowledge, rules = installation.knowledge, rules_of(pipeline, installation.settings)
    start = Start(str(pipeline.id), time(), len(pipeline.stages))
    return Question(start, knowledge.past(start.pipeline_id), knowledge.model, rules.thresholds)
