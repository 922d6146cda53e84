"""Traces of real executions, as a collector receives them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import LeaseLostError, StoreError
from flexiroaster.model.event import Event
from flexiroaster.service import pipelines, tracing
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import leases
from tests.collector import Collector, Span, collecting
from tests.integration.program import DAILY, flexiroaster_afresh, write_definition
from tests.integration.test_control import begin
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.proxy import free_port
from tests.waiting import eventually

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what the kind of database does not matter to."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    changes = {
        "python_modules": (FUNCTIONS,),
        "executor_stop_grace": 0.5,
        "artifacts_url": str(tmp_path / "artifacts"),
        "output_database_url": f"sqlite:///{tmp_path / 'output.db'}",
        "redis_url": "",
    }
    return settings.model_copy(update=changes)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was traced is there once an installation is closed, however busy the machine is."""
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 120.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "120")


@pytest.fixture
def traced(settings: Settings, collector: Collector) -> Settings:
    return settings.model_copy(update={"otel_exporter_otlp_endpoint": collector.url})


def nanoseconds(at: datetime) -> int:
    since = at - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return since // timedelta(microseconds=1) * 1000


def waits_for(path: Path) -> dict[str, Any]:
    return python("w", "wait_for_file", arguments={"path": str(path)})


def closing_threads() -> list[threading.Thread]:
    """What still tries to send something after its installation was closed."""
    return [thread for thread in threading.enumerate() if thread.name == "flexiroaster-spans-end"]


def at(events: list[Event], kind: str, stage_id: str | None = None) -> int:
    (found,) = [event.at for event in events if (event.type, event.stage_id) == (kind, stage_id)]
    return nanoseconds(found)


def assert_one_tree(spans: list[Span]) -> Span:
    """All are of one trace, each once, and each is below one that is there, but for the first."""
    assert len({span.trace_id for span in spans}) == 1
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    (root,) = [span for span in spans if span.parent_id not in ids]
    return root


def test_a_completed_run_is_a_span_with_one_below_for_each_stage(traced: Settings, collector: Collector) -> None:
    with open_installation(traced) as installation:
        revision = pipelines.create(
            installation, {"name": "Daily", "stages": [rows("a", {"x": 1}, {"x": 2}), python("b", "two", "a")]}
        )
        x = executions.start(installation, revision, triggered_by="cron")
        assert executions.wait(installation, x, timeout=120).status == "completed"
        events = executions.events(installation, x)
        owner = installation.owner
    root = assert_one_tree(collector.spans)
    assert collector.paths == {"/v1/traces"}
    assert {(span.by, span.service) for span in collector.spans} == {(owner, "flexiroaster")}
    assert (root.name, root.parent_id, root.failed) == ("execution Daily", "", False)
    assert (root.start, root.end) == (at(events, "execution.started"), at(events, "execution.completed"))
    assert root.attributes == {
        "flexiroaster.execution.id": x,
        "flexiroaster.execution.trigger": "cron",
        "flexiroaster.execution.status": "completed",
        "flexiroaster.pipeline.id": revision.id,
        "flexiroaster.pipeline.name": "Daily",
        "flexiroaster.pipeline.revision": 1,
    }
    for stage_id, operator, count in (("a", "input.api", 2), ("b", "transform.python", 2)):
        span = collector.one(f"stage {stage_id}")
        assert (span.parent_id, span.failed) == (root.span_id, False)
        assert (span.start, span.end) == (
            at(events, "stage.started", stage_id),
            at(events, "stage.completed", stage_id),
        )
        assert span.attributes == {
            "flexiroaster.execution.id": x,
            "flexiroaster.stage.id": stage_id,
            "flexiroaster.stage.attempt": 1,
            "flexiroaster.stage.operator": operator,
            "flexiroaster.stage.outcome": "completed",
            "flexiroaster.stage.rows": count,
        }


def test_each_attempt_of_a_failing_stage_is_a_span(traced: Settings, collector: Collector, tmp_path: Path) -> None:
    counter = {"path": str(tmp_path / "count"), "failures": 2}
    stage = python("b", "fail_first", "a", arguments=counter, max_retries=1, retry_delay=0.01)
    with open_installation(traced) as installation:
        x = begin(installation, rows("a", {"x": 1}), stage, python("c", "two", "b"))
        assert executions.wait(installation, x, timeout=120).status == "failed"
    root = assert_one_tree(collector.spans)
    first, second = collector.named("stage b")
    assert [span.attributes["flexiroaster.stage.attempt"] for span in (first, second)] == [1, 2]
    assert [(span.failed, span.message) for span in (first, second)] == [(True, "not yet (1)"), (True, "not yet (2)")]
    for span in (first, second):
        assert span.attributes["exception.type"] == "RuntimeError"
        assert span.attributes["flexiroaster.stage.outcome"] == "failed"
        assert span.attributes["error.type"] == "unknown"
    assert first.end < second.start
    assert root.failed
    assert root.message == "Execution failed: Stage 'b' failed: not yet (2)"
    assert root.attributes["flexiroaster.execution.status"] == "failed"
    assert [name for name, _ in root.events] == ["stage.skipped"]
    assert not collector.named("stage c")


def starts(installation: Installation, execution_id: str) -> list[int]:
    """When each attempt began."""
    events = executions.events(installation, execution_id)
    return [nanoseconds(event.at) for event in events if event.type == "stage.started"]


def lose(installation: Installation, execution_id: str) -> None:
    """Drive it no longer, without a word: as if the process had died."""
    installation.driver.abandon([execution_id], LeaseLostError("lost"))
    eventually(lambda: execution_id not in installation.driver.driven)
    leases.release(installation.database, installation.owner, [execution_id])


@pytest.mark.parametrize("how", ["handed over", "lost"])
def test_whoever_drives_it_the_trace_is_the_same(
    traced: Settings, collector: Collector, tmp_path: Path, how: str
) -> None:
    go_on = tmp_path / "go-on"
    with open_installation(traced) as first:
        x = begin(first, rows("a", {"x": 1}), waits_for(go_on))
        eventually(lambda: {s.status for s in executions.stages(first, x)} == {"completed", "running"})
        first.hand_over() if how == "handed over" else lose(first, x)
        with open_installation(traced) as second:
            second.start_claiming()
            eventually(lambda: len(starts(second, x)) == 3)
            go_on.touch()
            assert executions.wait(second, x, timeout=120).status == "completed"
            events, began = executions.events(second, x), starts(second, x)
    root = assert_one_tree(collector.spans)
    assert [span.by for span in collector.named("stage a")] == [first.owner]
    interrupted, done = sorted(collector.named("stage w"), key=lambda span: span.start)
    assert interrupted.attributes["flexiroaster.stage.outcome"] == "interrupted"
    assert not interrupted.failed
    assert interrupted.by == (first.owner if how == "handed over" else second.owner)
    assert [interrupted.start, done.start] == began[1:]
    assert done.by == root.by == second.owner
    assert root.start == at(events, "execution.started")
    assert [name for name, _ in root.events] == (["execution.released"] if how == "handed over" else [])


@SQLITE
def test_one_that_comes_back_is_told_from_what_others_did_meanwhile(
    traced: Settings, collector: Collector, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    with open_installation(traced) as first, open_installation(traced) as second:
        x = begin(first, waits_for(go_on))
        for began, gives, takes in ((1, first, second), (2, second, first)):
            eventually(lambda began=began: len(starts(first, x)) == began)
            lose(gives, x)
            assert takes.claim_and_drive(x)
        eventually(lambda: len(starts(first, x)) == 3)
        go_on.touch()
        assert executions.wait(first, x, timeout=120).status == "completed"
        tries = starts(first, x)
    assert_one_tree(collector.spans)
    found = sorted((span.start, span.by) for span in collector.named("stage w"))
    assert found == [(began, by) for began, by in zip(tries, (second.owner, first.owner, first.owner), strict=True)]


def test_a_retry_and_a_rollback_after_the_end_go_below_it(
    traced: Settings, collector: Collector, tmp_path: Path
) -> None:
    """Each by another process, which knows of the trace only what the database has."""
    path = tmp_path / "fixed"
    once_fixed = python("b", "fail_unless", "a", arguments={"path": str(path)})
    save = {"id": "s", "type": "output", "config": {"destination": "database", "table": "t"}, "dependencies": ["b"]}
    with open_installation(traced) as installation:
        revision = pipelines.create(
            installation,
            {"name": "T", "stages": [rows("a", {"x": 1}), once_fixed, save]},
        )
        x = executions.start(installation, revision, traceparent=PARENT)
        assert executions.wait(installation, x, timeout=120).status == "failed"
    path.touch()
    for ask, end in ((commands.retry, "completed"), (commands.rollback, "rolled_back")):
        with open_installation(traced) as installation:
            installation.start_claiming()
            ask(installation, x)
            eventually(lambda end=end: executions.get(installation, x).status == end)
    first = assert_one_tree(collector.spans)
    assert (first.name, first.trace_id, first.parent_id) == ("execution T", PARENT[3:35], PARENT[36:52])
    retry, rollback = collector.one("retry T"), collector.one("rollback T")
    assert retry.parent_id == rollback.parent_id == first.span_id
    assert retry.attributes["flexiroaster.execution.status"] == "completed"
    assert rollback.attributes["flexiroaster.execution.status"] == "rolled_back"
    assert (first.failed, retry.failed, rollback.failed) == (True, False, False)
    assert [span.parent_id for span in collector.named("stage b")] == [first.span_id, retry.span_id]
    undo = collector.one("undo s")
    assert undo.parent_id == rollback.span_id
    assert undo.attributes["flexiroaster.stage.outcome"] == "undone"
    assert undo.attributes["flexiroaster.stage.operator"] == "output.database"


@SQLITE
def test_a_pause_is_told_within_the_run(traced: Settings, collector: Collector, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    with open_installation(traced) as installation:
        installation.start_claiming()
        x = begin(installation, waits_for(go_on))
        eventually(lambda: executions.stages(installation, x)[0].status == "running")
        commands.pause(installation, x, interrupt=True)
        eventually(lambda: x not in installation.driver.driven)
        go_on.touch()
        commands.resume(installation, x)
        eventually(lambda: executions.get(installation, x).status == "completed")
    root = assert_one_tree(collector.spans)
    assert [name for name, _ in root.events] == ["execution.paused", "execution.resumed"]
    outcomes = [span.attributes["flexiroaster.stage.outcome"] for span in collector.named("stage w")]
    assert outcomes == ["interrupted", "completed"]


@SQLITE
def test_what_is_not_sampled_by_the_caller_is_not_sent(traced: Settings, collector: Collector) -> None:
    with open_installation(traced) as installation:
        revision = pipelines.create(installation, {"name": "T", "stages": [rows("a", {"x": 1})]})
        for flags in ("00", "01"):
            x = executions.start(installation, revision, traceparent=f"{PARENT[:-2]}{flags}")
            assert executions.wait(installation, x, timeout=120).status == "completed"
    assert [span.attributes["flexiroaster.execution.id"] for span in collector.spans] == [x, x]


@SQLITE
def test_a_collector_that_is_away_costs_two_lines_of_the_log(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing._rate_limit, "_passed", {})
    monkeypatch.setattr("opentelemetry.exporter.otlp.common.http._MAX_RETRIES", 2)  # one repetition
    changes = {"otel_exporter_otlp_endpoint": f"http://127.0.0.1:{free_port()}"}
    for _ in range(2):
        with open_installation(settings.model_copy(update=changes)) as installation:
            x = begin(installation, rows("a", {"x": 1}))
            assert executions.wait(installation, x, timeout=120).status == "completed"
        for thread in closing_threads():
            thread.join()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")]
    assert [line.partition(" ")[0] for line in told] == ["Transient", "Failed"]
    assert "Connection refused" in told[0]


@SQLITE
def test_a_collector_that_does_not_answer_holds_up_nothing(
    traced: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.0)
    collector.answering.clear()
    with open_installation(traced) as installation:
        for _ in range(2):
            x = begin(installation, rows("a", {"x": 1}))
            assert executions.wait(installation, x, timeout=120).status == "completed"
            eventually(collector.asked.is_set)
    (tries,) = closing_threads()
    assert collector.spans == []
    collector.answering.set()
    tries.join()
    assert len(collector.spans) == 4


@SQLITE
def test_spans_of_a_database_that_was_away_come_later(
    traced: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def away(*_: Any) -> Any:
        asked.set()
        raise StoreError("away")

    with open_installation(traced) as installation, monkeypatch.context() as patch:
        patch.setattr(tracing.executions, "execution", away)
        x = begin(installation, rows("a", {"x": 1}))
        installation.driver.wait(x, 120)
        assert asked.wait(120)
    assert [span.name for span in collector.spans] == ["stage a", "execution T"]


RUN = """
import sys
import flexiroaster
definition = {"name": "T", "stages": [{"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1}]}}]}
print(flexiroaster.run(definition).status, [name for name in sys.modules if name.startswith("opentelemetry")])
import graphql_api.app, rest_compat.app
print([name for name in ("opentelemetry.sdk", "opentelemetry.exporter") if name in sys.modules])  # FastAPI has the API
"""


def test_nothing_of_it_is_imported_unless_it_is_configured() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=300)
    assert done.stdout == "completed []\n[]\n", done.stderr


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_without_the_extra_it_says_so_at_the_start(variable: str) -> None:
    hidden = Path("hidden/opentelemetry")
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('No module named', name='opentelemetry')")
    env = {"PYTHONPATH": str(hidden.parent.resolve()), variable: "http://127.0.0.1:9"}
    ran = flexiroaster_afresh("run", write_definition(DAILY), **env)
    assert ran.returncode == 2
    assert ran.stderr == f"Error: {variable}: traces need the otel extra: pip install 'flexiroaster[otel]'\n"
    worked = flexiroaster_afresh("worker", **env)
    assert (worked.returncode, worked.stderr) == (2, ran.stderr)
    off = flexiroaster_afresh("run", "pipeline.yaml", **env, OTEL_SDK_DISABLED="true")
    assert off.returncode == 0, off.stderr
