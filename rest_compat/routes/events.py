"""The events of an execution as server-sent events, for clients without GraphQL.

The id of each event is its number. A client that reconnects sends the last one in `Last-Event-ID` and resumes exactly
there. The stream ends with the execution.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from flexiroaster.errors import NotFoundError
from flexiroaster.model.viewer import Viewer
from flexiroaster.service.executions import events
from flexiroaster.web.feeds import EventBatch, StreamsClosedError
from flexiroaster.web.streams import Streams
from graphql_api.event_streams import SIGN_OF_LIFE, EventStreams, alive
from rest_compat.models.base import Failure, Refusal
from rest_compat.models.executions import LogLine
from rest_compat.parameters import LARGEST, EmptyIsAbsent, ExecutionId
from rest_compat.requests import Reading

__all__ = ["router"]

router = APIRouter(prefix="/executions", tags=["executions"])

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


@router.get(
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
        with event_streams.opened_by(self._viewer):
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
                yield b"".join(map(_text, lines)) or SIGN_OF_LIFE


def _text(line: LogLine) -> bytes:
    return f"id: {line.id}\nevent: {line.metadata['event']}\ndata: {line.model_dump_json()}\n\n".encode()
