"""A server in a thread of the test's process: a real socket, real HTTP, and a schema of the test's choice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import strawberry

from flexiroaster.config import Settings
from flexiroaster.service.installation import open_installation
from flexiroaster.web.server import Server
from graphql_api.app import create_app
from tests.waiting import eventually

__all__ = ["Api", "serving"]


class Api:
    """A running server, as its client sees it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.installation = server.installation
        self.port = port
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.http = httpx.Client(timeout=120)

    def post(self, query: str, variables: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Send an operation; `accept_encoding=` in `headers` becomes `accept-encoding`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.url, json={"query": query, "variables": variables}, headers=named)

    def data(self, query: str, variables: Mapping[str, Any] | None = None, **headers: str) -> Any:
        """The data of an operation that has no errors."""
        answer = self.post(query, variables, **headers).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def alive(self) -> bool:
        """Whether the health check succeeds."""
        return self.http.get(f"http://127.0.0.1:{self.port}/health/live").status_code == 200


@contextmanager
def serving(settings: Settings, schema: strawberry.Schema | None = None, **options: Any) -> Iterator[Api]:
    """A server on a free port, ended with the block."""
    settings = settings.model_copy(update={"port": 0})
    with open_installation(settings) as installation:
        server = Server(create_app(installation, settings, schema, **options), installation)
        thread = threading.Thread(target=server.run, name="server")
        thread.start()
        try:
            eventually(lambda: server.started or not thread.is_alive(), within=60)
            api = Api(server, server.servers[0].sockets[0].getsockname()[1])
            with api.http:
                yield api
        finally:
            server.should_exit = True
            thread.join()
