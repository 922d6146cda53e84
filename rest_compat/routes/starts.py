"""The routes that start executions: two equivalent calls for the different bodies that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flexiroaster.service.executions import executions
from flexiroaster.service.safety import risk
from rest_compat import links
from rest_compat.models.base import Refusal, Responses
from rest_compat.models.executions import Started, StartRequest, StartStatus
from rest_compat.models.risk import RiskAssessment
from rest_compat.parameters import TRIGGERED_BY, IdempotencyKey, PipelineId, Traceparent, TriggeredBy
from rest_compat.requests import Call, Operating

__all__ = ["router"]

router = APIRouter(prefix="/executions", tags=["executions"])

_RESPONSES: Responses = {
    202: links.EXECUTION,
    400: {"model": Refusal, "description": "The pipeline is not active, or the body cannot be read."},
    404: {"model": Refusal, "description": "There is no such pipeline."},
    409: {"model": Refusal, "description": "Concurrency limit reached, or the key was used for another request."},
}


class Envelope(BaseModel):
    """The body that Airflow clients send; any other object is taken as the variables."""

    model_config = ConfigDict(extra="forbid", strict=True)

    triggered_by: str | None = Field(default=None, **TRIGGERED_BY)
    variables: dict[str, Any] | None = None


_ENVELOPE = TypeAdapter(Envelope)

ExecuteBody = Annotated[
    dict[str, Any] | None,
    Body(description='`{"triggered_by": ..., "variables": {...}}`, an object with only the variables, or no body.'),
]


@router.post("", status_code=202, responses=_RESPONSES)
def start_execution(
    call: Operating, asked: StartRequest, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None
) -> Started:
    """Start an execution of a pipeline."""
    variables = asked.variables or {}
    return _started(call, asked.pipeline_id, variables, asked.triggered_by, idempotency_key, traceparent)


@router.post("/{pipeline_id}/execute", status_code=202, responses=_RESPONSES)
def execute_pipeline(
    call: Operating,
    pipeline_id: PipelineId,
    body: ExecuteBody = None,
    triggered_by: TriggeredBy = "api",
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Started:
    """Start an execution of a pipeline; equivalent to `start_execution`."""
    envelope = _envelope(body or {})
    if envelope is None:
        return _started(call, pipeline_id, body or {}, triggered_by, idempotency_key, traceparent)
    by = envelope.triggered_by or triggered_by
    return _started(call, pipeline_id, envelope.variables or {}, by, idempotency_key, traceparent)


def _envelope(body: Mapping[str, Any]) -> Envelope | None:
    try:
        return _ENVELOPE.validate_python(body)
    except ValidationError:
        return None


def _started(
    call: Call,
    pipeline_id: str,
    variables: Mapping[str, Any],
    triggered_by: str,
    idempotency_key: str | None,
    traceparent: str | None,
) -> Started:
    asked = {"variables": variables, "triggered_by": triggered_by, "idempotency_key": idempotency_key}
    with call.audited("startExecution", pipeline_id, asked):
        execution_id = executions.start(
            call.installation,
            pipeline_id,
            variables,
            triggered_by=triggered_by,
            idempotency_key=idempotency_key,
            drive=call.installation.drives,
            traceparent=traceparent,
        )
    said = risk.of_executions(call.installation, [execution_id]).get(execution_id)
    return Started(
        success=True,
        execution_id=execution_id,
        status=StartStatus.ACCEPTED,
        risk_assessment=None if said is None else RiskAssessment.of(said),
        message=f"Execution started: {execution_id}",
    )
