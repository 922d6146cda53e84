"""A definition before it is stored: check it whole, fill in what it leaves open.

Nothing here needs the database, so that checking a file starts fast.
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
from flexiroaster.service.risk_config import risk_problems

__all__ = ["check", "check_variables", "read_definition", "unset_variables", "with_defaults", "with_stable_id"]


def check(raw: object, access: Access, variables: Mapping[str, Any] | None = None) -> Pipeline:
    """Check a definition whole and make the pipeline of it.

    `variables` override the definition's own; what waits for a variable that has no value yet is not judged.
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
    """Check what depends on variables in a definition that holds otherwise: every `${name}` has a value, and it fits.

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
    """The variables that stages name and that have no value yet, in the order of their first use."""
    known = {**pipeline.variables, **(variables or {})}
    used = (name for stage in pipeline.stages for name in placeholders(stage.config))
    return list(dict.fromkeys(name for name in used if name not in known))


def with_stable_id(raw: object) -> object:
    """The definition, with an id made of its name where it has none.

    So that a file that is run again makes the next revision of its pipeline, not another pipeline. The id is the name
    in lower case with `-` between the words: names that differ only in case, spaces and punctuation are one pipeline.
    """
    if isinstance(raw, Pipeline):
        return raw if raw.id is not None else raw.model_copy(update={"id": _slug(raw.name)})
    if not isinstance(raw, Mapping) or raw.get("id") is not None or not isinstance(raw.get("name"), str):
        return raw
    return {**raw, "id": _slug(raw["name"])}


def with_defaults(pipeline: Pipeline, settings: Settings) -> Pipeline:
    """The pipeline with the installation's limits where its stages have none, so that a revision says all."""
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
    """Of a definition whose structure does not hold, check what operators say of the stages that can be read."""
    stages = raw.get("stages") if isinstance(raw, Mapping) else None
    variables = raw.get("variables") if isinstance(raw, Mapping) else None
    known = variables if isinstance(variables, Mapping) else {}
    judged = {problem.path for problem in problems}
    for i, item in enumerate(stages if isinstance(stages, list | tuple) else ()):
        stage = _as_far_as_operators_care(item)
        if stage is not None:
            problems += [problem for problem in check_stage(i, stage, known, access) if problem.path not in judged]


def _as_far_as_operators_care(item: object) -> Stage | None:
    """The stage of a raw one whose id or limits may not hold; None where its type, config or dependencies do not."""
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
    """Without NaN: in records that come from pandas it is what null is elsewhere, and is stored as that."""
    return [problem for problem in unstorable(variables, ("variables",)) if problem.code != NOT_FINITE]


def _missing_variables(index: int, stage: Stage, known: Mapping[str, Any]) -> list[Problem]:
    missing = dict.fromkeys(name for name in placeholders(stage.config) if name not in known)
    path = f"stages[{index}].config"
    return [Problem(path, f"variable {name!r} has no value", "missing_variable") for name in missing]


def _slug(name: str) -> str:
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", name).casefold()).strip("-")
    return words[:255] or f"pipeline-{hashlib.sha256(name.encode()).hexdigest()[:12]}"  # a name of punctuation only
