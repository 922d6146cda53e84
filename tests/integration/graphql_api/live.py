"""A server with an executor, and clients that follow its executions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexiroaster.config import Settings
from flexiroaster.web.streams import Streams
from tests.integration.graphql_api.following import Socket, opened
from tests.integration.graphql_api.running import Api, serving

__all__ = ["EVENTS", "Live", "LiveSocket", "living"]

EVENTS = """
subscription Events($id: ID!, $after: String) {
  executionEvents(executionId: $id, after: $after) {
    events { seq type level message } cursor caughtUp execution { status lastSeq }
  }
}
"""
_CREATE = """
mutation ($pipeline: PipelineInput!) {
  createPipeline(input: {pipeline: $pipeline}) { __typename ... on PipelineSaved { pipeline { pipelineId } } }
}
"""
_START = """
mutation ($id: ID!) {
  startExecution(input: {pipelineId: $id}) { __typename ... on ExecutionStarted { execution { executionId } } }
}
"""


class LiveSocket(Socket):
    """A connection whose operations are expected to succeed, or not to begin."""

    def results(self, id_: str, query: str, **variables: Any) -> Iterator[Any]:
        """The data of each payload of an operation, until it completes."""
        self.subscribe(id_, query, **variables)
        for payload in self.payloads(id_):
            assert "errors" not in payload, payload
            yield payload["data"]

    def errors(self, query: str, **variables: Any) -> Any:
        """The errors of an operation that does not begin."""
        self.subscribe("e", query, **variables)
        message = self.receive()
        assert message["type"] == "error", message
        return message["payload"]

    def batches(self, execution_id: str, after: str | None = None) -> Iterator[Any]:
        for data in self.results("1", EVENTS, id=execution_id, after=after):
            yield data["executionEvents"]


class Live:
    """A running server and its folder."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.gate = folder / "gate"
        self.streams: Streams = api.server.streams

    @contextmanager
    def socket(self, payload: Any = None) -> Iterator[LiveSocket]:
        with opened(self.api, init=False) as socket:
            socket = LiveSocket(socket.connection)
            socket.init(payload)
            yield socket

    def start(self, *functions: str, arguments: dict[str, Any] | None = None, **fields: Any) -> str:
        """Start a pipeline, a chain of stages that call functions of `tests.functions`; return the execution's id."""
        stages: list[dict[str, Any]] = []
        for number, function in enumerate(functions):
            given = {"path": str(self.gate)} if function == "waits" else arguments or {}
            config = {"operation": "python", "function": f"tests.functions:{function}", "arguments": given}
            before = [f"s{number - 1}"] if number else []
            stages.append(
                {"id": f"s{number}", "type": "TRANSFORM", "config": config, "dependencies": before, "maxRetries": 0}
            )
        saved = self.api.data(_CREATE, {"pipeline": {"name": "p", "stages": stages, **fields}})["createPipeline"]
        return self.start_again(saved["pipeline"]["pipelineId"])

    def start_again(self, pipeline_id: str) -> str:
        return str(self.api.data(_START, {"id": pipeline_id})["startExecution"]["execution"]["executionId"])

    def open_gate(self) -> None:
        """Let the stages that call `waits` continue."""
        self.gate.touch()


@contextmanager
def living(settings: Settings, folder: Path, **options: Any) -> Iterator[Live]:
    """A server that runs executions; `options` are those of `create_app`."""
    update = {"python_modules": ("tests.functions",), "artifacts_url": str(folder / "artifacts")}
    with serving(settings.model_copy(update=update), **options) as api:
        api.installation.start_claiming()
        yield Live(api, folder)
