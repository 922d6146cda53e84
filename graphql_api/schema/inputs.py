"""Input types for pipeline definitions, and their conversion to the documents that the service validates.

GraphQL checks only the types of the fields; the service then reports all other problems at once. The paths in its
messages use the model's field names; `client_path` converts them to the schema's spelling.
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
from flexiroaster.model.validation_messages import shown
from graphql_api.schema.scalars import JSON

__all__ = ["PipelineChanges", "PipelineInput", "StageInput", "client_path", "document", "json_object", "plain"]

_FIELD = re.compile(r"^(stages\[\d+\]\.)?([a-z_]+)(?=$|[.\[])")


@strawberry.input
class StageInput:
    """One step of a pipeline. Times are in seconds; omitted fields use the installation's settings."""

    id: str = strawberry.field(description="Unique within the pipeline; letters, digits, `_`, `.` and `-`.")
    type: StageType
    name: str | None = UNSET
    description: str | None = UNSET
    config: JSON | None = strawberry.field(default=UNSET, description="Configuration of the operator; see `operators`.")
    dependencies: list[str] | None = strawberry.field(default=UNSET, description="Ids of the stages that it waits for.")
    timeout: float | None = UNSET
    max_retries: int | None = UNSET
    retry_delay: float | None = UNSET
    retry_backoff: float | None = UNSET
    max_retry_delay: float | None = UNSET
    retry_on: list[ErrorClass] | None = UNSET
    memory_limit: int | None = strawberry.field(default=UNSET, description="Memory that an attempt may add, in MiB.")
    is_critical: bool | None = UNSET


@strawberry.input
class PipelineInput:
    """A pipeline definition: a graph of stages, and the settings for its executions."""

    name: str
    stages: list[StageInput]
    id: str | None = strawberry.field(default=UNSET, description="Your own id for the pipeline; generated if omitted.")
    description: str | None = UNSET
    version: str | None = UNSET
    is_active: bool | None = UNSET
    schedule: str | None = UNSET
    variables: JSON | None = strawberry.field(default=UNSET, description="Default values for `${name}` in configs.")
    timeout: float | None = strawberry.field(default=UNSET, description="Time limit of a whole execution in seconds.")
    concurrency: int | None = strawberry.field(
        default=UNSET, description="Maximum number of live executions; null means no limit, omitted means 1."
    )
    on_conflict: OnConflict | None = UNSET
    config: JSON | None = UNSET


@strawberry.input
class PipelineChanges:
    """The fields to change. Omitted fields keep their values; null clears a field that may be empty."""

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
    """Return the fields that the client gave as a document, without the omitted ones."""
    return plain(given)


def plain(given: object) -> dict[str, Any]:
    """Return the fields that the client gave, recursively, as mappings, lists and plain values."""
    found = {field.name: getattr(given, field.name) for field in fields(given)}  # type: ignore[arg-type] # an input is a dataclass
    changes = isinstance(given, PipelineChanges)
    return {n: _value(v) for n, v in found.items() if v is not UNSET and not (v is None and changes)}


def json_object(given: object, argument: str) -> dict[str, Any]:
    """Return a JSON argument as an object; empty if it was omitted. Raises InputError if it is no object."""
    if given is None or given is UNSET:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"`{argument}` must be a JSON object, not {shown(given)}", argument=argument)
    return given


def client_path(path: str) -> str:
    """Convert a model path, such as `stages[0].max_retries`, to the schema's spelling; configs keep their names."""
    return _FIELD.sub(lambda match: f"{match[1] or ''}{to_camel_case(match[2])}", path)


def _value(value: Any) -> Any:  # noqa: ANN401 - the value of any input field
    if isinstance(value, strawberry.Some):
        return _value(value.value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    return plain(value) if has_object_definition(value) else value
