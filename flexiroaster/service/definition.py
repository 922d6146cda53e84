"""Validation of pipeline definitions before they are stored, and the defaults for missing fields.

Nothing here needs the database, so checking a file starts fast.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from flexiroaster.config import Settings
from flexiroaster.errors import DefinitionError, Problem
from flexiroaster.model.json_values import NOT_FINITE, unstorable
from flexiroaster.model.pipeline import Pipeline, Stage, parse_pipeline
from flexiroaster.model.template import placeholders
from flexiroaster.operators.base import Access
from flexiroaster.operators.registry import check_stage
from flexiroaster.service.definition_file import read_definition
from flexiroaster.service.policy_config import policy_problems
from flexiroaster.service.safety.config import risk_problems

__all__ = ["check", "check_variables", "read_definition", "unset_variables", "with_defaults", "with_stable_id"]


def check(raw: object, access: Access, variables: Mapping[str, Any] | None = None) -> Pipeline:
    """Validate a definition completely and return its pipeline.

    `variables` override the definition's own. A config that uses a variable without a value is not checked yet.
    Raises DefinitionError with every problem found: structure, operators, configs.
    """
    problems = _unstorable_variables(variables or {})
    if problems:
        raise DefinitionError(problems)
    try:
        pipeline = parse_pipeline(raw)
    except DefinitionError as error:
        problems = list(error.problems)
        if not any(problem.code == "depth" for problem in problems):
            _check_readable_stages(raw, access, problems)
        raise DefinitionError(problems) from error
    known = {**pipeline.variables, **(variables or {})}
    for i, stage in enumerate(pipeline.stages):
        problems += check_stage(i, stage, known, access)
    problems += risk_problems(pipeline)
    problems += policy_problems(pipeline)
    if problems:
        raise DefinitionError(problems)
    return pipeline


def check_variables(pipeline: Pipeline, access: Access, variables: Mapping[str, Any]) -> None:
    """Check the variables of an otherwise valid definition: every `${name}` has a value that its config accepts.

    Raises DefinitionError with every problem found.
    """
    problems = _unstorable_variables(variables)
    if problems:
        raise DefinitionError(problems)
    for i, stage in enumerate(pipeline.stages):
        if any(placeholders(stage.config)):
            problems += _missing_variables(i, stage, variables)
            problems += check_stage(i, stage, variables, access)
    if problems:
        raise DefinitionError(problems)


def unset_variables(pipeline: Pipeline, variables: Mapping[str, Any] | None = None) -> list[str]:
    """List the variables that stages use and that have no value yet, in the order of their first use."""
    known = {**pipeline.variables, **(variables or {})}
    used = (name for stage in pipeline.stages for name in placeholders(stage.config))
    return list(dict.fromkeys(name for name in used if name not in known))


def with_stable_id(raw: object) -> object:
    """Return the definition with an id derived from its name, if it has none.

    With a stable id, running a file again creates the next revision of its pipeline instead of another pipeline. The id
    is the name in lower case with `-` between words: names that differ only in case, spaces and punctuation denote the
    same pipeline.
    """
    if isinstance(raw, Pipeline):
        return raw if raw.id is not None else raw.model_copy(update={"id": _slug(raw.name)})
    if not isinstance(raw, Mapping) or raw.get("id") is not None or not isinstance(raw.get("name"), str):
        return raw
    return {**raw, "id": _slug(raw["name"])}


def with_defaults(pipeline: Pipeline, settings: Settings) -> Pipeline:
    """Return the pipeline with the installation's limits where its stages set none, so that a revision is complete."""
    defaults = {
        "timeout": settings.executor_stage_timeout,
        "max_retries": settings.executor_max_retries,
        "retry_delay": settings.executor_retry_delay,
        "retry_backoff": settings.executor_retry_backoff,
    }

    def fill(stage: Stage) -> Stage:
        missing = {field: value for field, value in defaults.items() if getattr(stage, field) is None}
        return stage.model_copy(update={**missing, "name": stage.title})

    return pipeline.model_copy(update={"stages": tuple(map(fill, pipeline.stages))})


def _check_readable_stages(raw: object, access: Access, problems: list[Problem]) -> None:
    """In a definition with an invalid structure, check the stages that can still be read against their operators."""
    stages = raw.get("stages") if isinstance(raw, Mapping) else None
    variables = raw.get("variables") if isinstance(raw, Mapping) else None
    known = variables if isinstance(variables, Mapping) else {}
    judged = {problem.path for problem in problems}
    for i, item in enumerate(stages if isinstance(stages, list | tuple) else ()):
        stage = _as_far_as_operators_care(item)
        if stage is not None:
            problems += [problem for problem in check_stage(i, stage, known, access) if problem.path not in judged]


def _as_far_as_operators_care(item: object) -> Stage | None:
    """Build a stage from its type, config and dependencies alone; None if one of these is invalid."""
    if isinstance(item, Stage):
        return item
    if not isinstance(item, Mapping):
        return None
    fields = {field: item[field] for field in ("type", "config", "dependencies") if field in item}
    try:
        return Stage.model_validate({"id": "unknown", **fields})
    except ValidationError:
        return None


def _unstorable_variables(variables: Mapping[str, Any]) -> list[Problem]:
    """List variables that cannot be stored. NaN is accepted: pandas uses it for null, and it is stored as null."""
    return [problem for problem in unstorable(variables, ("variables",)) if problem.code != NOT_FINITE]


def _missing_variables(index: int, stage: Stage, known: Mapping[str, Any]) -> list[Problem]:
    missing = dict.fromkeys(name for name in placeholders(stage.config) if name not in known)
    path = f"stages[{index}].config"
    return [Problem(path, f"variable {name!r} has no value", "missing_variable") for name in missing]


def _slug(name: str) -> str:
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", name).casefold()).strip("-")
    return words[:255] or f"pipeline-{hashlib.sha256(name.encode()).hexdigest()[:12]}"  # the name is punctuation only
