"""graphql-sse: an operation over one HTTP response of server-sent events, for clients without WebSockets.

The protocol is the distinct connections mode of https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md. Each
event's id is the cursor of its payload, so a browser that reconnects with `Last-Event-ID` resumes exactly there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.model.viewer import Viewer
from flexiroaster.web.streams import KEEP_ALIVE, EventStreams, StreamsClosedError, Transport, alive
from flexiroaster.web.thread_pool import RefusedError
from graphql_api.operations import FailedError, Operations, Response
from graphql_api.transport import requests
from graphql_api.transport.requests import GraphQLRequest, from_body, from_query, read_body

__all__ = ["GraphQLEventStream"]

_COMPLETE = b"event: complete\ndata:\n\n"


class GraphQLEventStream:
    """The ASGI application behind `/graphql` for requests that accept `text/event-stream`."""

    def __init__(self, operations: Operations, event_streams: EventStreams) -> None:
        self.operations = operations
        self.event_streams = event_streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with ExitStack() as resources:
            response = await self._respond(Request(scope, receive), resources)
            if response is not None:
                await response(scope, receive, send)

    async def _respond(self, request: Request, resources: ExitStack) -> ASGIApp | None:
        """The stream or an error response; None if the client has disconnected."""
        try:
            parsed, viewer = await self._parse(request)
            resources.enter_context(self.event_streams.count_stream(viewer))
        except RefusedError as refused:
            return requests.error_response(refused.errors, refused.status)
        except (UnauthenticatedError, StoreError) as error:
            return requests.authentication_failed(error)
        except ClientDisconnect:
            return None
        return partial(self.event_streams.send, self._events(request, parsed, viewer))

    async def _parse(self, request: Request) -> tuple[GraphQLRequest, Viewer]:
        """The request and its viewer. Raises RefusedError, UnauthenticatedError, StoreError, ClientDisconnect."""
        if request.method not in {"GET", "POST"}:
            raise RefusedError("Use GET or POST", "METHOD_NOT_ALLOWED", 405)
        viewer = await self.event_streams.viewer(request.scope)
        if request.method == "GET":
            return from_query(request.scope["query_string"]), viewer
        return from_body(request.headers, await read_body(request)), viewer

    async def _events(self, request: Request, parsed: GraphQLRequest, viewer: Viewer) -> AsyncGenerator[bytes, None]:
        """The stream's events. At a server shutdown it ends without `complete`, so that the client reconnects."""
        resume = request.headers.get("last-event-id") or None
        responses = self.operations.responses(
            parsed, viewer, Transport.SSE, resume=resume, read_only=request.method == "GET"
        )
        try:
            async with aclosing(responses), aclosing(alive(responses)) as responses_or_silence:
                async for response in responses_or_silence:
                    yield KEEP_ALIVE if response is None else _next(response)
        except StreamsClosedError:
            return
        except (RefusedError, FailedError) as error:
            yield _next(Response(requests.dump_json({"errors": error.errors}).decode()))
        yield _COMPLETE


def _next(response: Response) -> bytes:
    id_ = "" if response.cursor is None else f"id: {response.cursor}\n"
    return f"{id_}event: next\ndata: {response.text}\n\n".encode()
