"""A running server with both APIs, and a REST client that knows the canonical shapes of errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from flexiroaster.config import Settings
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.web.server import Server
from graphql_api.app import create_app
from graphql_api.transport.websocket import Limits
from rest_compat.app import add_rest
from tests.waiting import eventually

__all__ = ["INPUT", "Rest", "assert_error", "assert_invalid", "assert_refused", "serving", "waiting"]

INPUT = {"id": "load", "type": "input", "config": {"source": "api", "data": [{"n": 1}]}}


def waiting(path: Path) -> dict[str, Any]:
    """A stage that ends once the file exists."""
    config = {
        "operation": "python",
        "function": "tests.integration.stages:wait_for_file",
        "arguments": {"path": str(path)},
    }
    return {"id": "wait", "type": "transform", "config": config, "timeout": 120}


class Rest:
    """A REST client; paths are relative to the server, as in the contract."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.installation: Installation = server.installation
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, json: object = None, **options: Any) -> httpx.Response:
        return self.http.post(path, **({} if json is None else {"json": json}), **options)

    def json(self, path: str, **params: Any) -> Any:
        """The body of a successful read."""
        answer = self.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def pipeline(self, *stages: Mapping[str, Any], **fields: Any) -> str:
        """Create a pipeline; return its id."""
        body = {"name": "p", "concurrency": None, "stages": list(stages or (INPUT,)), **fields}
        answer = self.post("/api/pipelines", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def start(self, pipeline_id: str, **options: Any) -> str:
        """Start a pipeline; return the execution's id."""
        answer = self.post(f"/api/executions/{pipeline_id}/execute", **options)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])

    def status(self, execution_id: str) -> str:
        return str(self.json(f"/api/executions/{execution_id}")["status"])

    def reaches(self, execution_id: str, status: str) -> None:
        eventually(lambda: self.status(execution_id) == status, within=90)

    def run(self, pipeline_id: str, **options: Any) -> str:
        """Start a pipeline and wait for its completion."""
        execution_id = self.start(pipeline_id, **options)
        self.reaches(execution_id, "completed")
        return execution_id


@contextmanager
def serving(settings: Settings, *, executor: bool = True, limits: Limits | None = None) -> Iterator[Rest]:
    """A server on a free port, ended with the block; `limits` are those of connections for live results."""
    settings = settings.model_copy(update={"port": 0})
    with open_installation(settings) as installation:
        app = create_app(installation, settings, limits=limits)
        add_rest(app, installation)
        if executor:
            installation.start_claiming()
        server = Server(app, installation)
        thread = threading.Thread(target=server.run, name="server")
        thread.start()
        try:
            eventually(lambda: server.started or not thread.is_alive(), within=60)
            rest = Rest(server, server.servers[0].sockets[0].getsockname()[1])
            with rest.http:
                yield rest
        finally:
            server.should_exit = True
            thread.join()


def assert_error(answer: httpx.Response, status: int) -> Any:
    """Check the canonical shape of an error; return its `detail`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    body = answer.json()
    if status == 422:
        assert list(body) == ["detail"]
        assert body["detail"]
        for item in body["detail"]:
            assert list(item) == ["loc", "msg", "type"]
            assert item["loc"]
            assert all(isinstance(part, str | int) for part in item["loc"])
            assert item["msg"]
            assert isinstance(item["type"], str)
    elif status >= 500:
        assert list(body) == ["success", "error", "detail", "timestamp"]
        assert body["success"] is False
        assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
        assert isinstance(body["detail"], str)
    else:
        assert list(body) == ["detail"]
        assert isinstance(body["detail"], str)
    return body["detail"]


def assert_refused(answer: httpx.Response, status: int, detail: str) -> None:
    """Check a refusal with exactly this message; `...` at its end matches any text."""
    told = assert_error(answer, status)
    assert told.startswith(detail[:-3]) if detail.endswith("...") else told == detail


def assert_invalid(answer: httpx.Response, *wrong: tuple[list[str | int], str]) -> None:
    """Check a 422 with exactly these locations and types."""
    told = assert_error(answer, 422)
    assert [(item["loc"], item["type"]) for item in told] == list(wrong), told
