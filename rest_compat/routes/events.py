"""The events of an execution as server-sent events, for clients without GraphQL.

Each event has its number as its id, so that a client that connects again, which names the last one in `Last-Event-ID`,
goes on exactly there. The stream ends with the execution.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import Field

from flexiroaster.errors import UnauthenticatedError
from flexiroaster.service import events
from graphql_api.documents import RefusedError
from graphql_api.feed import EventBatch, StreamsClosedError
from graphql_api.streams import Streams
from rest_compat.calls import Reading, viewer_of
from rest_compat.models.base import Refusal
from rest_compat.models.executions import LogLine
from rest_compat.parameters import LARGEST, EmptyIsAbsent, ExecutionId

__all__ = ["router"]

router = APIRouter(prefix="/executions", tags=["executions"])

MOST_STREAMS = 1_000
"""Open at once in a process."""

KEEP_ALIVE_SECONDS = 12.0
"""Between two signs of life, so that nothing on the way takes a quiet stream for a dead one."""

CHECK_SECONDS = 30.0
"""Between two looks whether the token is still in force."""

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would collect events before it sends them
_SIGN_OF_LIFE = b":\n\n"

Number = Annotated[int, Field(ge=0, le=LARGEST)]
After = Annotated[Number | None, EmptyIsAbsent(), Query(description="Only events behind this number.")]
LastEventId = Annotated[
    Number | None, EmptyIsAbsent(), Header(description="The same, as browsers say it; goes before.")
]

_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The event's number."},
        "event": {"type": "string", "description": "Its type, such as `stage.completed`."},
        "data": {"type": "string", "description": "JSON: the same object as a line of the log."},
    },
}


@router.get(
    "/{execution_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "The events, one after another."},
        404: {"model": Refusal, "description": "There is no such execution."},
    },
)
async def follow_events(
    request: Request, _call: Reading, execution_id: ExecutionId, after: After = None, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The events behind a number and those to come, until the execution has ended."""
    streams: Streams = request.app.state.streams
    opened: set[Request] = request.app.state.open_streams
    if len(opened) >= MOST_STREAMS:
        raise HTTPException(503, "Too many streams are open, try again later")
    seen = last_event_id if last_event_id is not None else after
    try:
        batches = await streams.events(execution_id, None if seen is None else events.cursor(seen))
    except RefusedError as error:  # out of time
        raise HTTPException(error.status, str(error)) from error
    return StreamingResponse(_counted(request, opened, batches), media_type="text/event-stream", headers=_HEADERS)


async def _counted(
    request: Request, opened: set[Request], batches: AsyncIterator[EventBatch]
) -> AsyncGenerator[bytes, None]:
    opened.add(request)
    try:
        async with aclosing(_while_in_force(request, batches)) as found:
            async for chunk in found:
                yield chunk
    finally:
        opened.discard(request)


async def _while_in_force(request: Request, batches: AsyncIterator[EventBatch]) -> AsyncGenerator[bytes, None]:
    """The stream, as long as the token is in force."""
    checked = monotonic()
    async with aclosing(_chunks(batches)) as chunks:
        async for chunk in chunks:
            yield chunk
            if monotonic() - checked > CHECK_SECONDS:
                try:
                    await run_in_threadpool(viewer_of, request)
                except UnauthenticatedError:
                    return
                checked = monotonic()


async def _chunks(batches: AsyncIterator[EventBatch]) -> AsyncGenerator[bytes, None]:
    """The events as text, and a sign of life where there were none for a while; ends when the server does."""
    while True:
        coming = asyncio.ensure_future(anext(batches))
        try:
            while not (await asyncio.wait([coming], timeout=KEEP_ALIVE_SECONDS))[0]:
                yield _SIGN_OF_LIFE
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        try:
            batch = coming.result()
        except (StopAsyncIteration, StreamsClosedError):
            return
        yield b"".join(_text(LogLine.of(event)) for event in batch.events) or _SIGN_OF_LIFE


def _text(line: LogLine) -> bytes:
    return f"id: {line.id}\nevent: {line.metadata['event']}\ndata: {line.model_dump_json()}\n\n".encode()
