"""The routes of executions: start, list, read, stop, pause and resume them, and follow their logs and events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.executions import commands, events, executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.safety import risk
from flexiroaster.web.feeds import EventBatch, StreamsClosedError
from flexiroaster.web.streams import KEEP_ALIVE, EventStreams, Streams, alive
from rest_compat.dependencies import (
    MAX_NUMBER,
    TRIGGERED_BY,
    Call,
    EmptyIsAbsent,
    ExecutionId,
    Hours,
    IdempotencyKey,
    Limit,
    Operating,
    PageRequest,
    PipelineId,
    Reading,
    RequestedPage,
    Text,
    Traceparent,
    TriggeredBy,
)
from rest_compat.models import Done
from rest_compat.models.executions import (
    ExecutionDetail,
    ExecutionList,
    ExecutionSummary,
    LogLine,
    Logs,
    Started,
    StartRequest,
    StartStatus,
)
from rest_compat.models.safety import RiskAssessment
from rest_compat.responses import Failure, links, refusals
from rest_compat.routes.safety import decisions_router

__all__ = ["router"]

router = APIRouter(prefix="/executions", tags=["executions"])

_UNKNOWN = refusals({404: "There is no such execution."})
_COMMAND = {**_UNKNOWN, **refusals({400: "The execution's status does not allow it."})}
_START = {
    202: links(
        "execution_id",
        "$response.body#/execution_id",
        "get_execution",
        "get_logs",
        "list_decisions",
        "follow_events",
        "pause_execution",
        "resume_execution",
        "stop_execution",
    ),
    **refusals(
        {
            400: "The pipeline is not active, or the body cannot be read.",
            404: "There is no such pipeline.",
            409: "Concurrency limit reached, or the key was used for another request.",
        }
    ),
}

OfPipeline = Annotated[
    Text | None, EmptyIsAbsent(), Query(description="Return only executions of this pipeline, of any age.")
]
InStatus = Annotated[
    ExecutionStatus | None, EmptyIsAbsent(), Query(description="Return only executions with this status.")
]
AtLeast = Annotated[Level | None, EmptyIsAbsent(), Query(description="Return only lines at or above this level.")]
AfterLine = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Return only lines after this id.")]
ExecuteBody = Annotated[
    dict[str, Any] | None,
    Body(description='`{"triggered_by": ..., "variables": {...}}`, an object with only the variables, or no body.'),
]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
After = Annotated[Number | None, EmptyIsAbsent(), Query(description="Return only events after this number.")]
LastEventId = Annotated[
    Number | None, EmptyIsAbsent(), Header(description="Like `after`, as browsers send it; it takes precedence.")
]


# --- starts: two equivalent calls for the different bodies that clients send ---


class Envelope(BaseModel):
    """The body that Airflow clients send; any other object is taken as the variables."""

    model_config = ConfigDict(extra="forbid", strict=True)

    triggered_by: str | None = Field(default=None, **TRIGGERED_BY)
    variables: dict[str, Any] | None = None


@router.post("", status_code=202, responses=_START)
def start_execution(
    call: Operating, request: StartRequest, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None
) -> Started:
    """Start an execution of a pipeline."""
    return _start(call, request, idempotency_key, traceparent)


@router.post("/{pipeline_id}/execute", status_code=202, responses=_START)
def execute_pipeline(
    call: Operating,
    pipeline_id: PipelineId,
    body: ExecuteBody = None,
    triggered_by: TriggeredBy = "api",
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Started:
    """Start an execution of a pipeline; equivalent to `start_execution`."""
    variables = body
    with suppress(ValidationError):
        envelope = Envelope.model_validate(body or {})
        variables, triggered_by = envelope.variables, envelope.triggered_by or triggered_by
    request = StartRequest(pipeline_id=pipeline_id, variables=variables, triggered_by=triggered_by)
    return _start(call, request, idempotency_key, traceparent)


def _start(call: Call, request: StartRequest, idempotency_key: str | None, traceparent: str | None) -> Started:
    arguments: dict[str, Any] = {
        "variables": request.variables or {},
        "triggered_by": request.triggered_by,
        "idempotency_key": idempotency_key,
    }
    with call.audited("startExecution", request.pipeline_id, arguments):
        execution_id = executions.start(
            call.installation,
            request.pipeline_id,
            **arguments,
            drive=call.installation.is_driving,
            traceparent=traceparent,
        )
    assessment = risk.of_executions(call.installation, [execution_id]).get(execution_id)
    return Started(
        success=True,
        execution_id=execution_id,
        status=StartStatus.ACCEPTED,
        risk_assessment=None if assessment is None else RiskAssessment.of(assessment),
        message=f"Execution started: {execution_id}",
    )


# --- reads and commands ---


@router.get("")
def list_executions(
    call: Reading,
    requested: RequestedPage,
    pipeline_id: OfPipeline = None,
    status: InStatus = None,
    hours: Hours = 24,
) -> ExecutionList:
    """The executions, newest first: all those of a given pipeline, otherwise those of the last `hours`."""
    wanted = ExecutionFilter(
        pipeline_ids=None if pipeline_id is None else (pipeline_id,),
        statuses=None if status is None else (status,),
        created_after=utc_now() - timedelta(hours=hours) if pipeline_id is None else None,
    )
    return _list(call, wanted, requested)


@router.get("/running")
def list_running_executions(call: Reading, requested: RequestedPage) -> ExecutionList:
    """The executions that are running, newest first."""
    return _list(call, ExecutionFilter(statuses=(ExecutionStatus.RUNNING,)), requested)


@router.get("/{execution_id}", responses=_UNKNOWN)
def get_execution(call: Reading, execution_id: ExecutionId) -> ExecutionDetail:
    """An execution with its stages."""
    row = executions.get(call.installation, execution_id)
    return ExecutionDetail.of_rows(row, executions.stages(call.installation, execution_id))


@router.post("/{execution_id}/stop", responses=_COMMAND)
def stop_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Stop an execution: its stages are asked to end, and killed after a grace period."""
    return _request_command(call, "stop", commands.stop, execution_id)


@router.post("/{execution_id}/pause", responses=_COMMAND)
def pause_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Pause an execution: no further stage starts until it is resumed; running stages may finish."""
    return _request_command(call, "pause", commands.pause, execution_id)


@router.post("/{execution_id}/resume", responses=_COMMAND)
def resume_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Resume a paused execution."""
    return _request_command(call, "resume", commands.resume, execution_id)


@router.get("/{execution_id}/logs", responses=_UNKNOWN)
def get_logs(
    call: Reading, execution_id: ExecutionId, level: AtLeast = None, limit: Limit = 500, after: AfterLine = 0
) -> Logs:
    """The log of an execution, oldest line first."""
    minimum = level or Level.DEBUG
    lines = executions.logs(call.installation, execution_id, level=minimum, after=after, limit=limit)
    total = executions.count_logs(call.installation, execution_id, level=minimum)
    last = lines[-1].seq if lines else after
    return Logs(logs=[LogLine.of(event) for event in lines], total=total, after=last)


def _list(call: Call, wanted: ExecutionFilter, requested: PageRequest) -> ExecutionList:
    installation, unread = call.installation, frozenset({"variables"})
    rows, total, cursor = requested.read(
        lambda skip, limit: executions.offset_page(installation, wanted, skip, limit, unread),
        lambda window: executions.page(installation, wanted, window=window, leave_out=unread),
        lambda: executions.count(installation, wanted),
        ExecutionSort.NEWEST.value.cursor,
    )
    return ExecutionList(executions=[ExecutionSummary.of(row) for row in rows], total=total, cursor=cursor)


def _request_command(call: Call, command: str, request: Callable[..., None], execution_id: str) -> Done:
    with call.audited(f"{command}Execution", execution_id, {}):
        request(call.installation, execution_id, requested_by=call.viewer.name)
    return Done(message=f"{command.capitalize()} requested: {execution_id}")


router.include_router(decisions_router)


# --- events: server-sent, for clients without GraphQL ---

_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The number of the event."},
        "event": {"type": "string", "description": "The type of the event, such as `stage.completed`."},
        "data": {"type": "string", "description": "JSON: the same object as a line of the log."},
    },
}


@router.get(
    "/{execution_id}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "The stream of events."},
        **_UNKNOWN,
        503: {"model": Failure, "description": "The database cannot be reached, or too many streams are open."},
    },
)
async def follow_events(
    request: Request, call: Reading, execution_id: ExecutionId, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Stream the events after a number, stored and live, until the execution has ended."""
    streams: Streams = request.app.state.streams
    seen = last_event_id if last_event_id is not None else after
    batches = await streams.events(execution_id, None if seen is None else events.cursor(seen))
    return _EventResponse(request, call.viewer, batches)


class _EventResponse(Response):
    """A streaming response with server-sent events."""

    def __init__(self, request: Request, viewer: Viewer, batches: AsyncGenerator[EventBatch, None]) -> None:
        super().__init__()
        self._request = request
        self._viewer = viewer
        self._batches = batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises RefusedError if too many streams are open."""
        event_streams: EventStreams = self._request.app.state.event_streams
        opened: set[object] = self._request.app.state.open_streams
        with event_streams.count_stream(self._viewer):
            opened.add(self)
            try:
                await event_streams.send(_chunks(self._batches), scope, receive, send)
            finally:
                opened.discard(self)


async def _chunks(batches: AsyncGenerator[EventBatch, None]) -> AsyncGenerator[bytes, None]:
    """Encode the events as text; ends when the server shuts down or the execution is deleted."""
    with suppress(StreamsClosedError, NotFoundError):
        async with aclosing(batches), aclosing(alive(batches)) as batches_or_silence:
            async for batch in batches_or_silence:
                lines = () if batch is None else map(LogLine.of, batch.events)
                yield b"".join(map(_encode, lines)) or KEEP_ALIVE


def _encode(line: LogLine) -> bytes:
    return f"id: {line.id}\nevent: {line.metadata['event']}\ndata: {line.model_dump_json()}\n\n".encode()
