"""Server-sent event streams, shared by GraphQL and REST: their limits, their keep-alives and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from flexiroaster.errors import StoreError, UnauthenticatedError
from flexiroaster.service.admin.tokens import Viewer
from flexiroaster.service.installation import Installation
from flexiroaster.web.authentication import authenticate, credentials_of
from graphql_api.documents import RefusedError
from graphql_api.execution import OVERLOADED, Workers
from graphql_api.places import Places

__all__ = ["SIGN_OF_LIFE", "EventStreams", "alive"]

MOST_STREAMS = 1_000
"""Maximum number of open streams in one process."""

KEEP_ALIVE_SECONDS = 12.0
"""Interval between two keep-alives, so that no proxy takes a quiet stream for a dead one."""

CHECK_SECONDS = 30.0
"""Interval between two checks that the token is still valid."""

SIGN_OF_LIFE = b":\n\n"
"""The keep-alive: an SSE comment."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers events before it sends them
]
_END = {"type": "http.response.body", "body": b""}

T = TypeVar("T")


class EventStreams:
    """The open event streams of one process. The object belongs to one event loop."""

    def __init__(self, installation: Installation, workers: Workers, places: Places) -> None:
        self._installation = installation
        self._workers = workers
        self._places = places
        self.open = 0
        """Number of open streams."""

    async def viewer(self, scope: Scope) -> Viewer:
        """Authenticate a request. Raises UnauthenticatedError, StoreError, RefusedError."""
        return await self._workers.run(lambda *_: authenticate(self._installation, scope, credentials_of(scope)))

    @contextmanager
    def opened_by(self, viewer: Viewer) -> Iterator[None]:
        """Count a stream until the block ends. Raises RefusedError if too many are open, in all or for this viewer."""
        if self.open >= MOST_STREAMS:
            raise RefusedError.because("Too many streams are open, try again later", OVERLOADED, 503)
        with self._places.taken_by(viewer.name):
            self.open += 1
            try:
                yield
            finally:
                self.open -= 1

    async def send(self, chunks: AsyncGenerator[bytes, None], scope: Scope, receive: Receive, send: Send) -> None:
        """Send these chunks until they end, the client disconnects, or its token is no longer valid."""
        stream = asyncio.create_task(_send(chunks, send))
        gone = asyncio.create_task(_gone(receive))
        invalid = asyncio.create_task(self._until_invalid(scope))
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
            await send(_END)

    async def _until_invalid(self, scope: Scope) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            with suppress(StoreError, RefusedError):  # the check failed, but the token was valid before
                try:
                    await self.viewer(scope)
                except UnauthenticatedError:
                    return


async def alive(found: AsyncIterator[T]) -> AsyncGenerator[T | None, None]:
    """Yield the items of an iterator, and None after each `KEEP_ALIVE_SECONDS` without an item."""
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


async def _send(chunks: AsyncGenerator[bytes, None], send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    async with aclosing(chunks):
        async for chunk in chunks:  # while the client does not read, this waits and holds one chunk
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send(_END)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
