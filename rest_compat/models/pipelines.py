"""The models of pipelines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Body
from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from flexiroaster.errors import ErrorClass
from flexiroaster.model import pipeline as model
from flexiroaster.model.pipeline import OnConflict, Pipeline, StageType
from flexiroaster.service.pipelines import PipelineRow, Revision
from rest_compat.models import Answer

__all__ = ["Changes", "Definition", "PipelineDetail", "PipelineList", "PipelineSummary"]


class PipelineStage(Answer):
    """A stage of a pipeline. Times are in seconds, `memory_limit` in MiB; `order` is its place in topological order."""

    id: str
    name: str
    type: StageType
    description: str | None
    config: dict[str, Any]
    dependencies: list[str]
    timeout: int | float | None
    max_retries: int | None
    retry_delay: float | None
    retry_backoff: float | None
    max_retry_delay: float
    retry_on: list[ErrorClass]
    memory_limit: int | None
    is_critical: bool
    order: int

    @classmethod
    def of(cls, stage: model.Stage, order: int) -> PipelineStage:
        """Build the stage from a definition."""
        description, timeout = stage.description or None, _whole(stage.timeout)
        return cls.from_row(stage, name=stage.title, description=description, timeout=timeout, order=order)


class PipelineSummary(Answer):
    """A pipeline at its newest revision, without its stages."""

    id: str
    name: str
    description: str | None
    version: str
    is_active: bool
    schedule: str | None
    stage_count: int
    revision: int
    created_at: datetime
    updated_at: datetime | None

    @classmethod
    def of(cls, row: PipelineRow) -> PipelineSummary:
        """Build the pipeline from a row."""
        return cls.from_row(row, description=row.description or None)


class PipelineDetail(PipelineSummary):
    """A pipeline with its stages."""

    stages: list[PipelineStage]
    config: dict[str, Any]
    variables: dict[str, Any]
    timeout: int | float | None
    concurrency: int | None
    on_conflict: OnConflict

    @classmethod
    def of_revision(cls, revision: Revision) -> PipelineDetail:
        """Build the pipeline from a revision."""
        pipeline = revision.pipeline
        order = {stage_id: position for position, stage_id in enumerate(pipeline.order())}
        return cls.from_row(
            pipeline,
            id=revision.id,
            description=pipeline.description or None,
            stage_count=len(pipeline.stages),
            revision=revision.revision,
            created_at=revision.created_at,
            updated_at=revision.updated_at,
            stages=[PipelineStage.of(stage, order[stage.id]) for stage in pipeline.stages],
            timeout=_whole(pipeline.timeout),
        )


class PipelineList(Answer):
    """A page of pipelines, oldest first; `total` counts all matches."""

    pipelines: list[PipelineSummary]
    total: int
    cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


def _whole(seconds: float | None) -> int | float | None:
    """Convert whole seconds to an integer, as clients expect."""
    return int(seconds) if seconds is not None and seconds.is_integer() else seconds


# --- request bodies: the model documents them, and the service validates them to report all problems ---


class _DocumentedBy:
    """Documents a mapping with the schema of a model without validating it; `partly` makes all fields optional."""

    def __init__(self, model: type[BaseModel], *, partly: bool = False) -> None:
        self.model = model
        self.partly = partly

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(source)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(self.model.__pydantic_core_schema__)
        if not self.partly:
            return described
        fields = handler.resolve_ref_schema(described)
        return {key: value for key, value in fields.items() if key not in {"required", "title"}}


_EXAMPLE: dict[str, Any] = {
    "name": "My First Pipeline",
    "description": "A simple data pipeline",
    "stages": [
        {"id": "load-data", "name": "Load Data", "type": "input", "config": {"source": "api"}, "dependencies": []},
        {
            "id": "transform",
            "name": "Transform Data",
            "type": "transform",
            "config": {"operation": "normalize"},
            "dependencies": ["load-data"],
        },
    ],
}

Definition = Annotated[dict[str, Any], _DocumentedBy(Pipeline), Body(openapi_examples={"first": {"value": _EXAMPLE}})]
"""A complete pipeline."""

Changes = Annotated[dict[str, Any], _DocumentedBy(Pipeline, partly=True), Body()]
"""Some fields of a pipeline; each replaces the stored value."""
