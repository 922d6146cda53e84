"""The trace that a caller names in `traceparent`, through every door that starts executions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service.executions import executions
from tests.collector import Collector, collecting
from tests.integration.program import DAILY, environment, write_definition
from tests.integration.rest_compat.client import Rest, serving
from tests.waiting import eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
MALFORMED = ["", "nonsense", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01"]
START = """
mutation ($id: ID!) {
  startExecution(input: {pipelineId: $id}) { __typename ... on ExecutionStarted { execution { executionId } } }
}
"""
RERUN = """
mutation ($id: ID!) {
  rerunExecution(input: {id: $id, fromStage: "load"}) {
    __typename ... on ExecutionStarted { execution { executionId } }
  }
}
"""


PATIENT_RUN = """
import sys
from flexiroaster.cli import main
from flexiroaster.service import tracing
tracing.CLOSE_SECONDS = 120.0
sys.argv = ["flexiroaster", "run", sys.argv[1]]
main()
"""
"""`flexiroaster run`, which waits for a collector that is busy."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Rest]:
    folder = tmp_path_factory.mktemp("traced")
    settings = load_settings(
        database_url=f"sqlite:///{folder / 'rest.db'}",
        artifacts_url=str(folder / "artifacts"),
        redis_url="",
        executor_workers=2,
        cors_origins=("https://dashboard.example",),
        otel_exporter_otlp_traces_endpoint=f"{collector.url}/of/their/own",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_SERVICE_NAME", "roaster")
        with serving(settings) as running:
            yield running


def graphql(rest: Rest, query: str, key: str, **headers: str) -> str:
    answer = rest.post("/graphql", {"query": query, "variables": {"id": key}}, headers=headers).json()
    ((_, started),) = answer["data"].items()
    return str(started["execution"]["executionId"])


def start(rest: Rest, door: str, headers: list[tuple[str, str]]) -> str:
    pipeline_id = rest.pipeline()
    if door == "execute":
        return rest.start(pipeline_id, headers=headers)
    if door == "executions":
        answer = rest.post("/api/executions", {"pipeline_id": pipeline_id}, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])
    if door == "startExecution":
        return graphql(rest, START, pipeline_id, **dict(headers))
    execution_id = rest.run(pipeline_id)
    return graphql(rest, RERUN, execution_id, **dict(headers))


def parent_of(collector: Collector, execution_id: str) -> tuple[str, str]:
    """The trace and the span that an execution is below."""

    def found() -> list[tuple[str, str]]:
        return [
            (span.trace_id, span.parent_id)
            for span in collector.named("execution p")
            if span.attributes["flexiroaster.execution.id"] == execution_id
        ]

    eventually(found)
    (parent,) = found()
    return parent


@pytest.mark.parametrize("door", ["execute", "executions", "startExecution", "rerunExecution"])
def test_a_start_names_the_parent(rest: Rest, collector: Collector, door: str) -> None:
    execution_id = start(rest, door, [("traceparent", PARENT)])
    assert parent_of(collector, execution_id) == (TRACE, SPAN)
    assert {span.service for span in collector.spans} == {"roaster"}
    assert collector.paths == {"/of/their/own"}


@pytest.mark.parametrize("header", MALFORMED)
def test_a_malformed_one_begins_a_trace(rest: Rest, collector: Collector, header: str) -> None:
    for door in ("execute", "executions", "startExecution"):
        execution_id = start(rest, door, [("traceparent", header)])
        assert executions.events(rest.installation, execution_id, limit=1)[0].data is None
        trace, parent = parent_of(collector, execution_id)
        assert trace != TRACE
        assert parent == ""


def test_two_of_them_begin_a_trace(rest: Rest, collector: Collector) -> None:
    execution_id = start(rest, "execute", [("traceparent", PARENT), ("traceparent", PARENT)])
    assert parent_of(collector, execution_id)[1] == ""


@pytest.mark.parametrize("path", ["/graphql", "/api/executions"])
def test_pages_of_allowed_origins_may_send_it(rest: Rest, path: str) -> None:
    asked = {
        "origin": "https://dashboard.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,traceparent",
    }
    assert rest.http.options(path, headers=asked).status_code == 200


@pytest.mark.parametrize(("given", "trace"), [(PARENT, TRACE), ("nonsense", None)])
def test_the_command_line_reads_it_from_the_environment(collector: Collector, given: str, trace: str | None) -> None:
    definition = write_definition({**DAILY, "name": f"From {given}"})
    Path(".env").write_text(f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.url}/\n")
    ran = subprocess.run([sys.executable, "-c", PATIENT_RUN, definition], capture_output=True, text=True,
                         env=environment(TRACEPARENT=given), timeout=300)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    root = collector.one(f"execution From {given}")
    assert root.parent_id == (SPAN if trace else "")
    assert (root.trace_id == TRACE) is (trace is not None)
    assert root.attributes["flexiroaster.execution.trigger"] == "cli"
    assert "opentelemetry" not in ran.stderr
