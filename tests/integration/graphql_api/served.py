"""`flexiroaster serve`, the real program in its own process, as a client sees it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.integration.program import started
from tests.proxy import free_port
from tests.waiting import eventually

__all__ = ["CREATE", "ENV", "START", "Served", "served"]

ROOT = Path(__file__).parents[3]
ENV = {"PYTHON_MODULES": '["tests.integration.stages"]', "PYTHONPATH": str(ROOT), "EXECUTOR_WORKERS": "2"}

CREATE = """
mutation ($pipeline: PipelineInput!) {
  createPipeline(input: {pipeline: $pipeline}) { __typename ... on PipelineSaved { pipeline { id } } }
}
"""
START = """
mutation ($id: ID!) {
  startExecution(input: {pipelineId: $id}) { __typename ... on ExecutionStarted { execution { id } } }
}
"""
STATUS = "query ($id: ID!) { execution(id: $id) { status } }"


class Served:
    """The program, as a client sees it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def alive(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=60).status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.process.communicate()
            return False

    def data(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def start(self, *stages: dict[str, Any]) -> str:
        """Create a pipeline and start it; return the global id of the execution."""
        saved = self.data(CREATE, pipeline={"name": "p", "stages": list(stages)})["createPipeline"]
        started = self.data(START, id=saved["pipeline"]["id"])["startExecution"]
        return str(started["execution"]["id"])

    def status(self, execution_id: str) -> str:
        return str(self.data(STATUS, id=execution_id)["execution"]["status"])

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


@contextmanager
def served(*options: str, port: int | None = None, **env: str) -> Iterator[Served]:
    """The program, on a free port unless one is given; killed with the block if it still runs."""
    port = port or free_port()
    process = started("serve", "--port", str(port), *options, env={**ENV, **env})
    try:
        server = Served(process, port)
        eventually(server.alive, within=60)
        yield server
    finally:
        process.kill()
        process.communicate()
