"""Request bodies with definitions: the model documents them, and the service validates them to report all problems."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from flexiroaster.model.pipeline import Pipeline

__all__ = ["Changes", "Definition"]


class _DescribedBy:
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

Definition = Annotated[dict[str, Any], _DescribedBy(Pipeline), Body(openapi_examples={"first": {"value": _EXAMPLE}})]
"""A complete pipeline."""

Changes = Annotated[dict[str, Any], _DescribedBy(Pipeline, partly=True), Body()]
"""Some fields of a pipeline; each replaces the stored value."""
