"""Definitions as the client writes them: the fields of the model, typed, handed on as a document to be checked whole.

Nothing is judged here but what GraphQL's types judge: the service finds every problem at once. Its paths name fields as
the model does; `client_path` says them as the schema does.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import strawberry
from strawberry.types.base import has_object_definition
from strawberry.types.unset import UNSET
from strawberry.utils.str_converters import to_camel_case

from flexiroaster.errors import ErrorClass, InputError
from flexiroaster.model.pipeline import OnConflict, StageType
from flexiroaster.problems import shown
from graphql_api.schema.scalars import JSON

__all__ = ["PipelineChanges", "PipelineInput", "StageInput", "client_path", "document", "json_object", "plain"]

_FIELD = re.compile(r"^(stages\[\d+\]\.)?([a-z_]+)(?=$|[.\[])")


@strawberry.input
class StageInput:
    """One step of a pipeline. Times are seconds; what is left out takes the installation's setting."""

    id: str = strawberry.field(description="Unique within the pipeline: letters, digits, `_`, `.`, `-`.")
    type: StageType
    name: str | None = UNSET
    description: str | None = UNSET
    config: JSON | None = strawberry.field(default=UNSET, description="What the operator is to do; see `operators`.")
    dependencies: list[str] | None = strawberry.field(default=UNSET, description="Ids of the stages it waits for.")
    timeout: float | None = UNSET
    max_retries: int | None = UNSET
    retry_delay: float | None = UNSET
    retry_backoff: float | None = UNSET
    max_retry_delay: float | None = UNSET
    retry_on: list[ErrorClass] | None = UNSET
    memory_limit: int | None = strawberry.field(default=UNSET, description="MiB an attempt may add.")
    is_critical: bool | None = UNSET


@strawberry.input
class PipelineInput:
    """A pipeline: a graph of stages, and how it runs."""

    name: str
    stages: list[StageInput]
    id: str | None = strawberry.field(default=UNSET, description="Your own id for it; left out: one is made.")
    description: str | None = UNSET
    version: str | None = UNSET
    is_active: bool | None = UNSET
    schedule: str | None = UNSET
    variables: JSON | None = strawberry.field(default=UNSET, description="Defaults for `${name}` in configs.")
    timeout: float | None = strawberry.field(default=UNSET, description="Limit of a whole execution in seconds.")
    concurrency: int | None = strawberry.field(
        default=UNSET, description="How many executions may be live at a time; null: any number; left out: 1."
    )
    on_conflict: OnConflict | None = UNSET
    config: JSON | None = UNSET


@strawberry.input
class PipelineChanges:
    """The fields to change; what is left out stays as it is, null empties what may be empty."""

    name: strawberry.Maybe[str]
    stages: strawberry.Maybe[list[StageInput]]
    description: strawberry.Maybe[str | None]
    version: strawberry.Maybe[str]
    is_active: strawberry.Maybe[bool]
    schedule: strawberry.Maybe[str | None]
    variables: strawberry.Maybe[JSON]
    timeout: strawberry.Maybe[float | None]
    concurrency: strawberry.Maybe[int | None]
    on_conflict: strawberry.Maybe[OnConflict]
    config: strawberry.Maybe[JSON]


def document(given: PipelineInput | PipelineChanges) -> dict[str, Any]:
    """The fields that the client gave, as a document; those it left out are not in it."""
    return plain(given)


def plain(given: object) -> dict[str, Any]:
    """The fields of an input that the client gave, and theirs: mappings, lists and plain values."""
    found = {field.name: getattr(given, field.name) for field in fields(given)}  # type: ignore[arg-type] # an input is a dataclass
    changes = isinstance(given, PipelineChanges)
    return {n: _value(v) for n, v in found.items() if v is not UNSET and not (v is None and changes)}


def json_object(given: object, argument: str) -> dict[str, Any]:
    """The object that a JSON argument is to be; empty where it was left out. Raises InputError."""
    if given is None or given is UNSET:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"`{argument}` is a JSON object, not {shown(given)}", argument=argument)
    return given


def client_path(path: str) -> str:
    """A path of the model, such as `stages[0].max_retries`, in the schema's spelling; configs are not touched."""
    return _FIELD.sub(lambda match: f"{match[1] or ''}{to_camel_case(match[2])}", path)


def _value(value: Any) -> Any:  # noqa: ANN401 - the value of any input field
    if isinstance(value, strawberry.Some):
        return _value(value.value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    return plain(value) if has_object_definition(value) else value
