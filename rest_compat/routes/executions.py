"""The routes of executions: list, read, stop, pause and resume them, and read their logs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.executions import commands, events, executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.reads import Window
from flexiroaster.service.safety import risk
from flexiroaster.web.feeds import EventBatch, StreamsClosedError
from flexiroaster.web.streams import KEEP_ALIVE, EventStreams, Streams, alive
from rest_compat import requests
from rest_compat.models.base import Done, Failure, Refusal, Responses
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
from rest_compat.requests import (
    LARGEST,
    TRIGGERED_BY,
    Call,
    Cursor,
    EmptyIsAbsent,
    ExecutionId,
    Hours,
    IdempotencyKey,
    Limit,
    Operating,
    PipelineId,
    Reading,
    Skip,
    Text,
    Traceparent,
    TriggeredBy,
)

__all__ = ["events_router", "router", "starts_router"]


router = APIRouter(prefix="/executions", tags=["executions"])

_UNKNOWN: Responses = {404: {"model": Refusal, "description": "There is no such execution."}}
_STATUS: Responses = {400: {"model": Refusal, "description": "The execution's status does not allow it."}}

_RUNNING = ExecutionFilter(statuses=(ExecutionStatus.RUNNING,))

OfPipeline = Annotated[
    Text | None, EmptyIsAbsent(), Query(description="Return only executions of this pipeline, of any age.")
]
InStatus = Annotated[
    ExecutionStatus | None, EmptyIsAbsent(), Query(description="Return only executions with this status.")
]
AtLeast = Annotated[Level | None, EmptyIsAbsent(), Query(description="Return only lines at or above this level.")]
AfterLine = Annotated[int, Query(ge=0, le=LARGEST, description="Return only lines after this id.")]


@router.get("")
def list_executions(
    call: Reading,
    pipeline_id: OfPipeline = None,
    status: InStatus = None,
    hours: Hours = 24,
    skip: Skip = 0,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> ExecutionList:
    """The executions, newest first: all those of a given pipeline, otherwise those of the last `hours`."""
    wanted = ExecutionFilter(
        pipeline_ids=None if pipeline_id is None else (pipeline_id,),
        statuses=None if status is None else (status,),
        created_after=utc_now() - timedelta(hours=hours) if pipeline_id is None else None,
    )
    return _listed(call, wanted, skip, limit, cursor)


@router.get("/running")
def list_running_executions(call: Reading, skip: Skip = 0, limit: Limit = 100, cursor: Cursor = None) -> ExecutionList:
    """The executions that are running, newest first."""
    return _listed(call, _RUNNING, skip, limit, cursor)


@router.get("/{execution_id}", responses=_UNKNOWN)
def get_execution(call: Reading, execution_id: ExecutionId) -> ExecutionDetail:
    """An execution with its stages."""
    row = executions.get(call.installation, execution_id)
    return ExecutionDetail.of_rows(row, executions.stages(call.installation, execution_id))


@router.post("/{execution_id}/stop", responses={**_UNKNOWN, **_STATUS})
def stop_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Stop an execution: its stages are asked to end, and killed after a grace period."""
    return _asked(call, "stop", commands.stop, execution_id)


@router.post("/{execution_id}/pause", responses={**_UNKNOWN, **_STATUS})
def pause_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Pause an execution: no further stage starts until it is resumed; running stages may finish."""
    return _asked(call, "pause", commands.pause, execution_id)


@router.post("/{execution_id}/resume", responses={**_UNKNOWN, **_STATUS})
def resume_execution(call: Operating, execution_id: ExecutionId) -> Done:
    """Resume a paused execution."""
    return _asked(call, "resume", commands.resume, execution_id)


@router.get("/{execution_id}/logs", responses=_UNKNOWN)
def get_logs(
    call: Reading, execution_id: ExecutionId, level: AtLeast = None, limit: Limit = 500, after: AfterLine = 0
) -> Logs:
    """The log of an execution, oldest line first."""
    least = level or Level.DEBUG
    lines = executions.logs(call.installation, execution_id, level=least, after=after, limit=limit)
    total = executions.count_logs(call.installation, execution_id, level=least)
    last = lines[-1].seq if lines else after
    return Logs(logs=[LogLine.of(event) for event in lines], total=total, after=last)


def _listed(call: Call, wanted: ExecutionFilter, skip: int, limit: int, cursor: str | None) -> ExecutionList:
    """Read a page, by offset or by cursor."""
    if cursor is None:
        rows, total = executions.offset_page(call.installation, wanted, skip, limit, _UNSHOWN)
        more = skip + len(rows) < total
    else:
        window = Window(first=limit, after=cursor)
        page = executions.page(call.installation, wanted, window=window, leave_out=_UNSHOWN)
        rows, more, total = list(page.items), page.has_next, executions.count(call.installation, wanted)
    following = ExecutionSort.NEWEST.value.cursor(rows[-1]) if rows and more else None
    return ExecutionList(executions=[ExecutionSummary.of(row) for row in rows], total=total, cursor=following)


_UNSHOWN = frozenset({"variables"})


def _asked(call: Call, what: str, ask: Callable[..., None], execution_id: str) -> Done:
    with call.audited(f"{what}Execution", execution_id, {}):
        ask(call.installation, execution_id, requested_by=call.viewer.name)
    return Done(message=f"{what.capitalize()} requested: {execution_id}")


# The routes that start executions: two equivalent calls for the different bodies that clients send.
starts_router = APIRouter(prefix="/executions", tags=["executions"])

_RESPONSES: Responses = {
    202: requests.EXECUTION,
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


@starts_router.post("", status_code=202, responses=_RESPONSES)
def start_execution(
    call: Operating, asked: StartRequest, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None
) -> Started:
    """Start an execution of a pipeline."""
    variables = asked.variables or {}
    return _started(call, asked.pipeline_id, variables, asked.triggered_by, idempotency_key, traceparent)


@starts_router.post("/{pipeline_id}/execute", status_code=202, responses=_RESPONSES)
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
            drive=call.installation.is_driving,
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


# The events of an execution as server-sent events, for clients without GraphQL.
events_router = APIRouter(prefix="/executions", tags=["executions"])

Number = Annotated[int, Field(ge=0, le=LARGEST)]
After = Annotated[Number | None, EmptyIsAbsent(), Query(description="Return only events after this number.")]
LastEventId = Annotated[
    Number | None, EmptyIsAbsent(), Header(description="Like `after`, as browsers send it; it takes precedence.")
]

_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The number of the event."},
        "event": {"type": "string", "description": "The type of the event, such as `stage.completed`."},
        "data": {"type": "string", "description": "JSON: the same object as a line of the log."},
    },
}


@events_router.get(
    "/{execution_id}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "The stream of events."},
        404: {"model": Refusal, "description": "There is no such execution."},
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
        async with aclosing(batches), aclosing(alive(batches)) as found:
            async for batch in found:
                lines = () if batch is None else map(LogLine.of, batch.events)
                yield b"".join(map(_text, lines)) or KEEP_ALIVE


def _text(line: LogLine) -> bytes:
    return f"id: {line.id}\nevent: {line.metadata['event']}\ndata: {line.model_dump_json()}\n\n".encode()
