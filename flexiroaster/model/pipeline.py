"""Pipelines and stages: the definition of a run.

Definitions in Python, YAML, JSON and REST requests give the same value. `parse_pipeline` finds every structural problem
of a definition at once; the operators validate their own config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from flexiroaster.errors import DefinitionError, ErrorClass, Problem
from flexiroaster.model.json_values import unstorable
from flexiroaster.model.validation_messages import Location, problems_of, quoted, shown, suggestion_hint

__all__ = [
    "RESPONSE_FIELDS",
    "OnConflict",
    "Pipeline",
    "Stage",
    "StageType",
    "dependents",
    "downstream",
    "find_cycle",
    "malformed",
    "parse_pipeline",
    "placeholders",
    "substitute",
    "topological_order",
]


class StageType(StrEnum):
    """Stage types: an input reads a table, an output writes tables, the others turn tables into one table."""

    INPUT = "input"
    TRANSFORM = "transform"
    VALIDATION = "validation"
    OUTPUT = "output"


DEFAULT_RETRY_ON = (ErrorClass.TRANSIENT, ErrorClass.TIMEOUT, ErrorClass.CRASH, ErrorClass.UNKNOWN)

_STAGE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")

_MAX_GRAPH_PROBLEMS = 100  # each unknown name is compared with all known names

_STAGE_RESPONSE_FIELDS = {"order"}

RESPONSE_FIELDS = frozenset({"stage_count", "created_at", "updated_at", "revision"})
"""Fields that responses add to the definition of a pipeline."""


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=False, validate_default=False)


class Stage(_Value):
    """One step of a pipeline.

    `timeout` and the delays are seconds, `memory_limit` is MiB that an attempt may add to an idle worker. A None field
    takes the installation's setting when the pipeline is saved or run. `config` belongs to the operator.
    """

    id: str = Field(min_length=1, max_length=255, json_schema_extra={"pattern": f"^{_STAGE_ID.pattern}$"})
    name: Text = Field(default="", max_length=255)
    type: StageType
    description: Text = ""
    config: dict[str, Any] = Field(default_factory=dict)
    dependencies: tuple[str, ...] = ()
    timeout: float | None = Field(default=None, gt=0, le=31_536_000)
    max_retries: int | None = Field(default=None, ge=0, le=1000)
    retry_delay: float | None = Field(default=None, ge=0, le=86_400)
    retry_backoff: float | None = Field(default=None, ge=1, le=100)
    max_retry_delay: float = Field(default=300.0, ge=0, le=86_400)
    retry_on: tuple[ErrorClass, ...] = DEFAULT_RETRY_ON
    memory_limit: int | None = Field(default=None, ge=1)
    is_critical: bool = True

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        if not _STAGE_ID.fullmatch(value):
            rule = "must consist of letters, digits, _, . and -, and start with a letter, a digit or _"
            raise ValueError(f"{rule}, not {shown(value)}")
        return value

    @property
    def title(self) -> str:
        """Display name: `name`, or the id if `name` is empty."""
        return self.name or self.id


class OnConflict(StrEnum):
    """What to do with a start while `concurrency` executions of the pipeline are live."""

    REJECT = "reject"
    QUEUE = "queue"
    CANCEL_OLDEST = "cancel_oldest"


class Pipeline(_Value):
    """A DAG of stages. `variables` are defaults for `${name}` in configs; `timeout` (s) limits a whole execution.

    At most `concurrency` executions (None: any number) are live at a time; `on_conflict` applies to further starts.
    """

    id: str | None = Field(default=None, min_length=1, max_length=255)
    name: str = Field(min_length=1, max_length=255)
    description: Text = ""
    version: str = "1.0.0"
    is_active: bool = True
    schedule: str | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)
    variables: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0, le=31_536_000)
    concurrency: int | None = Field(default=1, ge=1, le=10_000)
    on_conflict: OnConflict = OnConflict.REJECT
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _check_stages(cls, value: object) -> object:
        if isinstance(value, list | tuple) and not value:
            raise ValueError("a pipeline needs at least one stage")
        return value

    def stage(self, stage_id: str) -> Stage:
        """The stage with this id. Raises KeyError."""
        for stage in self.stages:
            if stage.id == stage_id:
                return stage
        raise KeyError(stage_id)

    def dependencies(self) -> dict[str, tuple[str, ...]]:
        """Map each stage id to the ids it depends on, in the order of the definition."""
        return {stage.id: stage.dependencies for stage in self.stages}

    def order(self) -> tuple[str, ...]:
        """Stage ids in topological order; ties keep the order of the definition."""
        return topological_order(self.dependencies())

    def document(self) -> dict[str, Any]:
        """The definition as JSON values, without fields that are None by default."""
        return {**_present(self), "stages": [_present(stage) for stage in self.stages]}


def parse_pipeline(raw: object) -> Pipeline:
    """Parse a mapping (from YAML, JSON, a request or Python) into a `Pipeline`.

    Raises `DefinitionError` with every structural problem: fields, ids, dependencies, cycles.
    """
    if isinstance(raw, Pipeline):
        raw = _fields_of(raw)
    if not isinstance(raw, Mapping):
        raise DefinitionError(
            [Problem("", f"a pipeline must be a mapping with name and stages, not {shown(raw)}", "type")]
        )
    body = {key: value for key, value in raw.items() if key not in RESPONSE_FIELDS}
    stages = body.get("stages")
    if isinstance(stages, Sequence) and not isinstance(stages, str):
        body["stages"] = [_without_response_fields(stage) for stage in stages]
    problems = list(unstorable(body))
    if any(problem.code == "depth" for problem in problems):
        raise DefinitionError(problems)  # the checks below would not terminate on it
    pipeline = None
    try:
        pipeline = Pipeline.model_validate(body)
    except ValidationError as error:
        found = problems_of(error, body, Pipeline)
        reported = {problem.path for problem in found}
        problems = found + [problem for problem in problems if problem.path not in reported]
    problems += _graph_problems(body.get("stages"))
    if problems or pipeline is None:
        raise DefinitionError(problems)
    return pipeline


def _present(value: Pipeline | Stage) -> dict[str, Any]:
    """Drop fields that are None by default. A None inside `config` or `variables` is a value and stays."""
    fields = type(value).model_fields
    dumped = value.model_dump(mode="json").items()
    return {name: item for name, item in dumped if item is not None or fields[name].default is not None}


def _fields_of(value: Pipeline | Stage) -> dict[str, Any]:
    """The raw fields, so that values from Python are validated like any other input."""
    return {name: getattr(value, name) for name in type(value).model_fields}


def _without_response_fields(stage: object) -> object:
    if isinstance(stage, Stage):
        return _fields_of(stage)
    if not isinstance(stage, Mapping):
        return stage
    return {key: value for key, value in stage.items() if key not in _STAGE_RESPONSE_FIELDS}


def _graph_problems(stages: object) -> list[Problem]:
    """Find duplicate ids, unknown dependencies and cycles, as far as the raw stages are readable."""
    if not isinstance(stages, list):
        return []
    named = [(i, s) for i, s in enumerate(stages) if isinstance(s, Mapping) and isinstance(s.get("id"), str)]
    first: dict[str, int] = {}
    problems = []
    for i, stage in named:
        if stage["id"] in first:
            message = f"duplicate stage id {quoted(stage['id'])}, first used by stages[{first[stage['id']]}]"
            problems.append(Problem(f"stages[{i}].id", message, "duplicate_id"))
        first.setdefault(stage["id"], i)
    edges: dict[str, tuple[str, ...]] = {}
    for i, stage in named:
        listed = stage.get("dependencies") or ()
        wanted = [d for d in listed if isinstance(d, str)] if isinstance(listed, list | tuple) else []
        if len(problems) < _MAX_GRAPH_PROBLEMS:
            problems += _dependency_problems(i, stage["id"], wanted, first)
        edges.setdefault(stage["id"], tuple(d for d in wanted if d in first and d != stage["id"]))
    cycle = find_cycle(edges)
    if cycle:
        problems.append(Problem("stages", f"dependency cycle: {' -> '.join(cycle)}", "cycle"))
    return problems


def _dependency_problems(index: int, stage_id: str, wanted: list[str], known: Mapping[str, int]) -> list[Problem]:
    problems = []
    for j, dependency in enumerate(wanted):
        path = f"stages[{index}].dependencies[{j}]"
        if dependency == stage_id:
            problems.append(Problem(path, f"dependency cycle: {stage_id} -> {stage_id}", "cycle"))
        elif dependency not in known:
            message = f"unknown stage {quoted(dependency)}{suggestion_hint(dependency, known)}"
            problems.append(Problem(path, message, "unknown_dependency"))
        elif dependency in wanted[:j]:
            problems.append(Problem(path, f"{quoted(dependency)} is listed twice", "duplicate_dependency"))
    return problems


# --- graphs: map each node to the nodes it depends on --------------------------------------------------------------

Graph = Mapping[str, Sequence[str]]


def find_cycle(edges: Graph) -> list[str] | None:
    """Find one cycle, as a path in data-flow direction that starts and ends with the same node, or None."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return None


def topological_order(edges: Graph) -> tuple[str, ...]:
    """Sort all nodes after their dependencies; ties keep the order of `edges`. Raises graphlib.CycleError."""
    rank = {node: i for i, node in enumerate(edges)}
    sorter = TopologicalSorter(edges)
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        order += ready
        sorter.done(*ready)
    return tuple(order)


def dependents(edges: Graph) -> dict[str, list[str]]:
    """Map each node to the nodes that directly depend on it."""
    result: dict[str, list[str]] = {node: [] for node in edges}
    for node, wanted in edges.items():
        for dependency in wanted:
            result[dependency].append(node)
    return result


def downstream(edges: Graph, node: str) -> set[str]:
    """All nodes that depend on `node`, directly or indirectly."""
    direct = dependents(edges)
    found: set[str] = set()
    todo = [node]
    while todo:
        for follower in direct[todo.pop()]:
            if follower not in found:
                found.add(follower)
                todo.append(follower)
    return found


# --- placeholders: `${name}` in a stage's config is replaced by that variable when the stage runs -----------------

_MALFORMED = re.compile(r"(?<!\$)\$\{(?![A-Za-z_][A-Za-z0-9_]*\})[^}]{0,60}\}?")
_PATTERN = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(value: object) -> Iterator[str]:
    """The names of all placeholders in a JSON value, in order, with duplicates."""
    return (name for _, text in _texts(value) for name in _PATTERN.findall(text))


def malformed(value: object) -> Iterator[tuple[Location, str]]:
    """Find malformed placeholders such as `${my-day}` or `${ day }`: the path and text of each."""
    return ((path, found) for path, text in _texts(value) for found in _MALFORMED.findall(text))


def _texts(value: object, path: Location = ()) -> Iterator[tuple[Location, str]]:
    """All texts in a JSON value, each with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(item, (*path, key))


def substitute(value: Any, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value in, the same out
    """Replace the placeholders in a JSON value; those without a variable stay unchanged."""
    if isinstance(value, str):
        return _substitute_text(value, variables) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: substitute(item, variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(item, variables) for item in value]
    return value


def _substitute_text(text: str, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a variable has any JSON type
    whole = _PATTERN.fullmatch(text)
    if whole and whole[1] in variables:
        return variables[whole[1]]

    def render(match: re.Match[str]) -> str:
        return str(variables[match[1]]) if match[1] in variables else match[0]

    return _PATTERN.sub(render, text).replace("$${", "${")
