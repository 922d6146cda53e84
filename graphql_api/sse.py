"""graphql-sse: an operation over one HTTP response of server-sent events, for clients without WebSockets.

The protocol is the distinct connections mode of https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md. Each
event has the cursor of its payload as its id, so that a browser that connects again, which names the last one in
`Last-Event-ID`, goes on exactly there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, suppress

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.service.installation import Installation
from flexiroaster.service.tokens import Viewer
from graphql_api import failures, responses
from graphql_api.documents import RefusedError
from graphql_api.execution import Workers
from graphql_api.operations import FailedError, Operations, Response, errors_of
from graphql_api.places import Places
from graphql_api.requests import GraphQLRequest, from_body, from_query, read_body
from graphql_api.security import authenticate, credentials_of
from graphql_api.streams import StreamsClosedError, Transport

__all__ = ["EVENT_STREAM", "GraphQLEventStream"]

EVENT_STREAM = "text/event-stream"

MOST_STREAMS = 1_000
"""Open at once."""

KEEP_ALIVE_SECONDS = 12.0
"""Between two signs of life, so that nothing on the way takes a quiet stream for a dead one."""

CHECK_SECONDS = 30.0
"""Between two looks whether the token is still in force."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events before it sends them
]
_COMPLETE = b"event: complete\ndata:\n\n"
_SIGN_OF_LIFE = b":\n\n"
_END = {"type": "http.response.body", "body": b""}


class GraphQLEventStream:
    """The ASGI application behind `/graphql` for requests that accept `text/event-stream`."""

    def __init__(self, installation: Installation, operations: Operations, workers: Workers, places: Places) -> None:
        self.installation = installation
        self.operations = operations
        self.workers = workers
        self.places = places
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with ExitStack() as held:
            await self._answer(Request(scope, receive), scope, receive, send, held)

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send, held: ExitStack) -> None:
        try:
            asked, viewer = await self._begun(request)
            held.enter_context(self.places.taken_by(viewer.name))
        except RefusedError as refused:
            refusal: ASGIApp = responses.failure(errors_of(refused), refused.status)
        except UnauthenticatedError as error:
            challenge = {"www-authenticate": "Bearer"}
            refusal = responses.refusal(error.message, "UNAUTHENTICATED", 401, headers=challenge)
        except StoreError as error:
            refusal = responses.failure([failures.internal(error)], 503)
        except ClientDisconnect:
            return
        else:
            self._open += 1
            try:
                await self._serve(request, asked, viewer, send)
            finally:
                self._open -= 1
            return
        await refusal(scope, receive, send)

    async def _begun(self, request: Request) -> tuple[GraphQLRequest, Viewer]:
        """What is asked, and by whom. Raises RefusedError, UnauthenticatedError, StoreError, ClientDisconnect."""
        if request.method not in {"GET", "POST"}:
            raise RefusedError.because("Use GET or POST", "METHOD_NOT_ALLOWED", 405)
        if self._open >= MOST_STREAMS:
            raise RefusedError.because("Too many streams are open, try again later", "OVERLOADED", 503)
        viewer = await self._viewer(request.scope)
        if request.method == "GET":
            return from_query(request.scope["query_string"]), viewer
        return from_body(request.headers, await read_body(request)), viewer

    async def _viewer(self, scope: Scope) -> Viewer:
        return await self.workers.run(lambda *_: authenticate(self.installation, scope, credentials_of(scope)))

    async def _serve(self, request: Request, asked: GraphQLRequest, viewer: Viewer, send: Send) -> None:
        """Send the stream until it ends, the client goes, or its token is no longer in force."""
        stream = asyncio.create_task(self._stream(request, asked, viewer, send))
        gone = asyncio.create_task(_gone(request))
        invalid = asyncio.create_task(self._until_invalid(request.scope))
        tasks = (stream, gone, invalid)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result
        if done == {invalid}:
            await send(_END)  # without `complete`: the client comes back, and is told why it may not

    async def _stream(self, request: Request, asked: GraphQLRequest, viewer: Viewer, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        resume = request.headers.get("last-event-id") or None
        found = self.operations.responses(
            asked, viewer, Transport.SSE, resume=resume, read_only=request.method == "GET"
        )
        async with aclosing(_events(found)) as events:
            async for event in events:  # while a client does not read, this waits, and holds one event
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send(_END)

    async def _until_invalid(self, scope: Scope) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            with suppress(StoreError, RefusedError):  # it was in force
                try:
                    await self._viewer(scope)
                except UnauthenticatedError:
                    return


async def _events(found: AsyncGenerator[Response, None]) -> AsyncGenerator[bytes, None]:
    """The stream's events; it ends without `complete` when the server does, so that the client comes back."""
    try:
        async with aclosing(found):
            async for response in _alive(found):
                yield _SIGN_OF_LIFE if response is None else _next(response)
    except StreamsClosedError:
        return
    except (RefusedError, FailedError) as error:
        yield _next(Response(responses.dumps({"errors": errors_of(error)}).decode()))
    yield _COMPLETE


async def _alive(found: AsyncIterator[Response]) -> AsyncGenerator[Response | None, None]:
    """What is found, and None where nothing was for a while."""
    while True:
        coming = asyncio.ensure_future(anext(found))
        try:
            while not (await asyncio.wait([coming], timeout=KEEP_ALIVE_SECONDS))[0]:
                yield None
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        try:
            yield coming.result()
        except StopAsyncIteration:
            return


def _next(response: Response) -> bytes:
    id_ = "" if response.cursor is None else f"id: {response.cursor}\n"
    return f"{id_}event: next\ndata: {response.text}\n\n".encode()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
