"""Operator registry: finds operators by name and builds the operator of a stage.

The type of a stage and one field of its config select the operator: `source` for inputs, `operation` for transforms,
`validator` (default `rules`) for validations, `destination` for outputs. Other packages register operators in the entry
point group `flexiroaster.operators`; each entry names an `Operator` subclass.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from flexiroaster.errors import NotFoundError, Problem, configuration_error
from flexiroaster.model.pipeline import Stage, StageType, malformed, placeholders, substitute
from flexiroaster.model.validation_messages import (
    listing,
    located_problems,
    problems_of,
    quoted,
    render_path,
    shown,
    suggestion_hint,
)
from flexiroaster.operators.base import Access, Operator

__all__ = ["ENTRY_POINT_GROUP", "SELECTORS", "build", "check_stage", "find", "names", "operator_of"]

ENTRY_POINT_GROUP = "flexiroaster.operators"

SELECTORS: Mapping[StageType, tuple[str, str | None]] = {
    StageType.INPUT: ("source", None),
    StageType.TRANSFORM: ("operation", None),
    StageType.VALIDATION: ("validator", "rules"),
    StageType.OUTPUT: ("destination", None),
}
"""Stage type -> (the config field that selects the operator, its default)."""

_BUILT_IN: Mapping[str, str] = {
    "input.api": "flexiroaster.operators.inputs.json:ApiInput",
    "input.file": "flexiroaster.operators.inputs.file:FileInput",
    "input.http": "flexiroaster.operators.inputs.http:HttpInput",
    "input.sql": "flexiroaster.operators.inputs.sql:SqlInput",
    "transform.normalize": "flexiroaster.operators.transforms.columns:Normalize",
    "transform.select": "flexiroaster.operators.transforms.columns:Select",
    "transform.rename": "flexiroaster.operators.transforms.columns:Rename",
    "transform.cast": "flexiroaster.operators.transforms.columns:Cast",
    "transform.derive": "flexiroaster.operators.transforms.columns:Derive",
    "transform.filter": "flexiroaster.operators.transforms.rows:Filter",
    "transform.deduplicate": "flexiroaster.operators.transforms.rows:Deduplicate",
    "transform.fill_missing": "flexiroaster.operators.transforms.rows:FillMissing",
    "transform.sort": "flexiroaster.operators.transforms.rows:Sort",
    "transform.join": "flexiroaster.operators.transforms.combine:Join",
    "transform.concat": "flexiroaster.operators.transforms.combine:Concat",
    "transform.aggregate": "flexiroaster.operators.transforms.rows:Aggregate",
    "transform.sql": "flexiroaster.operators.transforms.sql:Sql",
    "transform.python": "flexiroaster.operators.transforms.python:Python",
    "transform.passthrough": "flexiroaster.operators.transforms.rows:Passthrough",
    "validation.rules": "flexiroaster.operators.validations.rules:Rules",
    "output.database": "flexiroaster.operators.outputs.database.operator:DatabaseOutput",
    "output.file": "flexiroaster.operators.outputs.file.operator:FileOutput",
    "output.http": "flexiroaster.operators.outputs.http:HttpOutput",
}
"""`type.name` -> `module:class`, imported on first use."""


@cache
def _entries() -> Mapping[str, EntryPoint]:
    """Return the operators of other packages; built-in operators take precedence."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in _BUILT_IN}


@cache
def _references() -> Mapping[str, str]:
    return {**_BUILT_IN, **{name: entry.value.partition("[")[0].strip() for name, entry in _entries().items()}}


def names(stage_type: StageType | None = None) -> list[str]:
    """Return the sorted full names (`type.name`) of all operators, or of one stage type."""
    prefix = f"{stage_type}." if stage_type else ""
    return sorted(name for name in _references() if name.startswith(prefix))


@cache
def find(name: str) -> type[Operator[Any]]:
    """Return the operator class of a full name (`transform.normalize`).

    Raises NotFoundError, with the nearest names if it is unknown, or with the reason if it cannot be loaded.
    """
    reference = _references().get(name)
    if reference is None:
        raise NotFoundError(f"unknown operator {quoted(name)}{suggestion_hint(name, names())}", operator=name)
    module, _, attribute = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a third-party module can fail in any way
        raise _unloadable(name, f"{type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Operator)):
        raise _unloadable(name, f"{reference} is not an Operator subclass")
    return found


def _unloadable(name: str, reason: str) -> NotFoundError:
    """Return the error for an operator that cannot be loaded; it names the package of a third-party operator."""
    entry = _entries().get(name)
    origin = f" of the package {entry.dist.name!r}" if entry is not None and entry.dist is not None else ""
    message = f"operator {name!r}{origin} cannot be loaded: {reason}"
    return NotFoundError(message, operator=name, reason=reason)


def operator_of(stage_type: StageType, config: Mapping[str, Any]) -> str:
    """Return the full name of the operator that a stage's config selects. Raises NotFoundError."""
    field, default = SELECTORS[stage_type]
    chosen = config.get(field, default)
    known = [name.partition(".")[2] for name in names(stage_type)]
    if chosen is None:
        raise NotFoundError(f"is required: one of {', '.join(known)}", field=field)
    if not isinstance(chosen, str):
        raise NotFoundError(f"must be one of {', '.join(known)}, not {shown(chosen)}", field=field, known=known)
    if chosen not in known:
        reason = (
            "; this field does not accept ${...}"
            if any(placeholders(chosen))
            else suggestion_hint(chosen, known) or listing(known)
        )
        raise NotFoundError(f"unknown {field} {quoted(chosen)}{reason}", field=field, known=known)
    return f"{stage_type}.{chosen}"


def build(stage_type: StageType, config: Mapping[str, Any], variables: Mapping[str, Any]) -> Operator[Any]:
    """Build the operator of a stage: fill the variables into its config and validate it.

    Raises StageError (configuration) if the config is invalid with these variables.
    """
    try:
        operator = find(operator_of(stage_type, config))
    except NotFoundError as error:
        raise configuration_error(f"config.{SELECTORS[stage_type][0]}: {error}") from error
    filled = substitute(_own_fields(stage_type, config), variables)
    try:
        return operator(operator.config_model.model_validate(filled))
    except ValidationError as error:
        raise configuration_error(
            "; ".join(map(str, problems_of(error, filled, operator.config_model, ("config",))))
        ) from error


def check_stage(index: int, stage: Stage, variables: Mapping[str, Any], access: Access) -> Iterator[Problem]:
    """Yield every problem of a stage: operator name, config fields, number of inputs, the operator's own `check`.

    `variables` are those known now; a field that needs an unknown variable is not checked.
    """
    here = ("stages", index, "config")
    try:
        operator = find(operator_of(stage.type, stage.config))
    except NotFoundError as error:
        yield Problem(render_path((*here, SELECTORS[stage.type][0])), error.message, "unknown_operator")
        return
    yield from _arity_problems(index, stage, operator)
    own = _own_fields(stage.type, stage.config)
    yield from _template_problems(here, operator, own)
    filled = substitute(own, variables)
    try:
        config = operator.config_model.model_validate(filled)
    except ValidationError as error:
        for location, problem in located_problems(error, filled, operator.config_model, here):
            if not any(placeholders(_value_at(filled, location))):
                yield problem
        return
    if not any(placeholders(filled)) and next(malformed(own), None) is None:
        for problem in operator(config).check(stage.dependencies, access):
            path = f"{render_path(here)}.{problem.path}" if problem.path else render_path(here)
            yield Problem(path, problem.message, problem.code)


def _arity_problems(index: int, stage: Stage, operator: type[Operator[Any]]) -> Iterator[Problem]:
    minimum, maximum = operator.arity
    given = len(stage.dependencies)
    if stage.type is StageType.INPUT:  # an input can depend on another stage, but it takes no table from it
        return
    path = render_path(("stages", index, "dependencies"))
    if given < minimum:
        wanted = (
            "one input table" if minimum == 1 else f"{'' if minimum == maximum else 'at least '}{minimum} input tables"
        )
        yield Problem(path, f"{operator.name!r} needs {wanted}, found {given}", "arity")
    elif maximum is not None and given > maximum:
        wanted = "one input table" if maximum == 1 else f"at most {maximum} input tables"
        yield Problem(path, f"{operator.name!r} takes {wanted}, found {given}; join or concat them first", "arity")


def _template_problems(
    here: tuple[str | int, ...], operator: type[Operator[Any]], config: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield malformed placeholders, and placeholders in fields that do not accept them.

    The latter are marked `json_schema_extra={"template": False}`: queries, function names.
    """
    for location, text in malformed(config):
        message = f"{text!r} is not a valid variable: use letters, digits and _ in a name; write $${{ for a literal ${{"
        yield Problem(render_path((*here, *location)), message, "template")
    fields = operator.config_model.model_fields
    instead = next((name for name in ("parameters", "arguments") if name in fields), None)
    for field, info in fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, Mapping) and extra.get("template") is False and any(placeholders(config.get(field))):
            remedy = f": pass values in `{instead}`" if instead else ""
            yield Problem(render_path((*here, field)), f"does not accept ${{...}}{remedy}", "template")


def _own_fields(stage_type: StageType, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without the field that selects the operator."""
    return {key: value for key, value in config.items() if key != SELECTORS[stage_type][0]}


def _value_at(value: Any, location: tuple[int | str, ...]) -> Any:  # noqa: ANN401 - walks any JSON value
    """Return the value at a location; if the path ends early, the text where it ends, else None."""
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return value if isinstance(value, str) else None
    return value
