"""Commands, leases, recovery, slots and rollback, through the service and with worker processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError, NotAllowedError, NotFoundError
from flexiroaster.model import failpoints
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from tests import warm
from tests.integration.test_runs import FUNCTIONS, python, rows, stages_of
from tests.leases import expire_leases
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    changes = {
        "python_modules": (FUNCTIONS,),
        "executor_stop_grace": 0.5,
        "heartbeat_interval": 0.5,
        "artifacts_url": str(tmp_path / "artifacts"),
        "output_database_url": f"sqlite:///{tmp_path / 'output.db'}",
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        opened.start_claiming()
        yield opened


def begin(installation: Installation, *stages: dict[str, Any], **fields: Any) -> str:
    return executions.start(
        installation, pipelines.create(installation, {"name": "T", "stages": list(stages), **fields})
    )


def seqs_have_no_gap(installation: Installation, execution_id: str) -> bool:
    events = executions.events(installation, execution_id)
    return [event.seq for event in events] == list(range(1, len(events) + 1))


def test_pause_drains_and_resume_continues(installation: Installation, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    x = begin(installation, python("a", "wait_for_file", arguments={"path": str(go_on)}), python("b", "two", "a"))
    eventually(lambda: executions.stages(installation, x)[0].status == "running")
    commands.pause(installation, x, "lunch", requested_by="ann")
    eventually(lambda: executions.get(installation, x).status == "paused")
    go_on.touch()
    eventually(lambda: executions.stages(installation, x)[0].status == "completed")
    eventually(lambda: x not in installation.driver.driven)
    assert executions.stages(installation, x)[1].status == "pending"
    with pytest.raises(
        NotAllowedError, match=r"^Cannot pause execution with status: paused; allowed: stop, resume, roll"
    ):
        commands.pause(installation, x)
    commands.resume(installation, x)
    assert eventually(lambda: executions.get(installation, x).status == "completed")
    assert "Execution paused: lunch by ann; running stages may finish" in [
        event.message for event in executions.events(installation, x)
    ]
    assert seqs_have_no_gap(installation, x)


def test_pause_interrupts_and_the_attempt_does_not_count(installation: Installation, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    x = begin(installation, python("a", "wait_for_file", arguments={"path": str(go_on)}))
    eventually(lambda: executions.stages(installation, x)[0].status == "running")
    commands.pause(installation, x, interrupt=True)
    eventually(lambda: x not in installation.driver.driven)
    stage = executions.stages(installation, x)[0]
    assert (stage.status, stage.attempt, executions.get(installation, x).status) == ("pending", 0, "paused")
    go_on.touch()
    commands.resume(installation, x)
    eventually(lambda: executions.get(installation, x).status == "completed")
    assert executions.stages(installation, x)[0].attempt == 1


@pytest.mark.parametrize("when", ["paused", "waiting for a retry", "queued"])
def test_stop_at_any_time(installation: Installation, when: str) -> None:
    slow = python("a", "sleep_long", max_retries=0)
    if when == "paused":
        x = begin(installation, slow)
        eventually(lambda: executions.stages(installation, x)[0].status == "running")
        commands.pause(installation, x, interrupt=True)
        eventually(lambda: x not in installation.driver.driven)
    elif when == "queued":
        revision = pipelines.create(installation, {"name": "T", "on_conflict": "queue", "stages": [slow]})
        first = executions.start(installation, revision)
        x = executions.start(installation, revision)
        assert executions.get(installation, x).status == "pending"
    else:
        x = begin(installation, python("a", "exit_3", max_retries=5, retry_delay=3600, max_retry_delay=3600))
        eventually(lambda: executions.stages(installation, x)[0].status == "waiting")
    commands.stop(installation, x, "enough")
    eventually(lambda: executions.get(installation, x).status == "cancelled")
    assert seqs_have_no_gap(installation, x)
    if when == "queued":
        commands.stop(installation, first)
        assert executions.wait(installation, first, timeout=120).status == "cancelled"


def test_retry_reruns_failed_stages_and_keeps_the_rest(installation: Installation, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    x = begin(
        installation,
        rows("a", {"x": 1}),
        python("b", "fail_unless", "a", arguments={"path": str(flag)}),
        python("c", "two", "b"),
    )
    failed = executions.wait(installation, x, timeout=120)
    before = stages_of(installation, failed)
    assert {i: str(s.status) for i, s in before.items()} == {"a": "completed", "b": "failed", "c": "skipped"}
    flag.touch()
    commands.retry(installation, x)
    assert eventually(lambda: executions.get(installation, x).status == "completed")
    after = stages_of(installation, failed)
    assert after["a"].completed_at == before["a"].completed_at, "what was done is not done again"
    assert executions.get(installation, x).error is None
    with pytest.raises(NotAllowedError, match="Cannot retry execution with status: completed; allowed: rollback"):
        commands.retry(installation, x)


def table_rows(url: str, table: str) -> list[tuple[Any, ...]] | None:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        there = sqlalchemy.inspect(connection).has_table(table)
        query = sqlalchemy.text(f"SELECT x FROM {table} ORDER BY x")
        found = [tuple(row) for row in connection.execute(query)] if there else None
    engine.dispose()
    return found


def test_rollback_undoes_in_reverse_order(installation: Installation, settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("x\nformer\n")
    save = {"id": "db", "type": "output", "dependencies": ["a"], "config": {"destination": "database", "table": "t"}}
    file = {"id": "f", "type": "output", "dependencies": ["db"], "config": {"destination": "file", "path": str(out)}}
    x = begin(installation, rows("a", {"x": 1}, {"x": 2}), save, {**file, "dependencies": ["a"]})
    assert executions.wait(installation, x, timeout=120).status == "completed"
    assert table_rows(settings.output_database_url, "t") == [(1,), (2,)]
    assert out.read_text() == "x\n1\n2\n"
    commands.rollback(installation, x, "wrong day")
    assert eventually(lambda: executions.get(installation, x).status == "rolled_back")
    assert table_rows(settings.output_database_url, "t") is None, "the output had created the table"
    assert out.read_text() == "x\nformer\n"
    stages = executions.stages(installation, x)
    assert {s.stage_id: str(s.status) for s in stages} == {"a": "completed", "db": "rolled_back", "f": "rolled_back"}
    started = {s.stage_id: s.started_at for s in stages}
    undone = [e.stage_id for e in executions.events(installation, x) if e.type == "stage.undone"]
    assert undone == sorted(("db", "f"), key=lambda i: started[i], reverse=True)
    with pytest.raises(NotAllowedError, match="Cannot rollback execution with status: rolled_back; allowed: nothing"):
        commands.rollback(installation, x)


def test_an_incomplete_rollback_reports_the_rest(installation: Installation, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    save = {"id": "db", "type": "output", "dependencies": ["a"], "config": {"destination": "database", "table": "t"}}
    file = {"id": "f", "type": "output", "dependencies": ["db"], "config": {"destination": "file", "path": str(out)}}
    x = begin(installation, rows("a", {"x": 1}), save, {**file, "dependencies": ["a"], "max_retries": 0})
    assert executions.wait(installation, x, timeout=120).status == "completed"
    out.write_text("somebody else's\n")
    commands.rollback(installation, x)
    done = eventually(lambda: (row := executions.get(installation, x)).status == "failed" and row)
    assert done.error["message"].startswith("The rollback is incomplete; undo manually: stage 'f': ")
    assert [item["stage_id"] for item in done.error["left"]] == ["f"]
    assert out.read_text() == "somebody else's\n"
    assert {s.stage_id: str(s.status) for s in executions.stages(installation, x)}["db"] == "rolled_back"


def test_rollback_finds_an_unreported_effect(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output's process dies after its effect and before its report: the stage is failed, the rows exist."""
    monkeypatch.setenv(failpoints.VARIABLE, "attempt.after_run=kill@2")
    save = {"id": "db", "type": "output", "dependencies": ["a"], "config": {"destination": "database", "table": "t"}}
    with open_installation(settings.model_copy(update={"executor_workers": 1})) as installation:
        x = begin(installation, rows("a", {"x": 1}), {**save, "max_retries": 0})
        assert executions.wait(installation, x, timeout=120).status == "failed"
        assert table_rows(settings.output_database_url, "t") == [(1,)]
        monkeypatch.delenv(failpoints.VARIABLE)
    with open_installation(settings) as installation:
        installation.start_claiming()
        commands.rollback(installation, x)
        eventually(lambda: executions.get(installation, x).status == "rolled_back")
    assert table_rows(settings.output_database_url, "t") is None


def test_a_second_execution_is_refused(installation: Installation) -> None:
    revision = pipelines.create(installation, {"name": "T", "stages": [python("a", "sleep_long")]})
    first = executions.start(installation, revision)
    with pytest.raises(ConflictError, match=f"^Pipeline {revision.id} is running already: {first}$"):
        executions.start(installation, revision)
    commands.stop(installation, first)
    executions.wait(installation, first, timeout=120)
    second = executions.start(installation, revision)
    commands.stop(installation, second)
    assert executions.wait(installation, second, timeout=120).status == "cancelled"


def test_a_queue_runs_all_one_at_a_time_in_order(installation: Installation) -> None:
    revision = pipelines.create(installation, {"name": "T", "on_conflict": "queue", "stages": [rows("a", {"x": 1})]})
    ids = [executions.start(installation, revision) for _ in range(8)]
    done = [executions.wait(installation, i, timeout=120) for i in ids]
    assert {row.status for row in done} == {"completed"}
    times = [(row.started_at, row.completed_at) for row in done]
    assert times == sorted(times)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))


def test_the_oldest_execution_is_cancelled(installation: Installation) -> None:
    body = {"name": "T", "on_conflict": "cancel_oldest", "stages": [python("a", "sleep_long")]}
    revision = pipelines.create(installation, body)
    first = executions.start(installation, revision)
    second = executions.start(installation, revision)
    assert executions.wait(installation, first, timeout=120).status == "cancelled"
    eventually(lambda: executions.get(installation, second).status == "running")
    commands.stop(installation, second)
    executions.wait(installation, second, timeout=120)


def test_the_same_key_is_the_same_execution(installation: Installation) -> None:
    revision = pipelines.create(installation, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
    found: set[str] = set()

    def start() -> None:
        found.add(executions.start(installation, revision, {"day": 1}, idempotency_key="k1"))

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = found
    with pytest.raises(ConflictError, match=f"^The idempotency key 'k1' was used for another request: {only}$"):
        executions.start(installation, revision, {"day": 2}, idempotency_key="k1")


def start_worker(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "PYTHON_MODULES": f'["{FUNCTIONS}"]',
        "PYTHONPATH": str(ROOT),
        "EXECUTION_LOCK_TTL": str(settings.execution_lock_ttl),
        "HEARTBEAT_INTERVAL": str(settings.heartbeat_interval),
        "ARTIFACTS_URL": settings.artifacts_url,
        "OUTPUT_DATABASE_URL": settings.output_database_url,
    }
    with log.open("ab") as file:
        return warm.Popen([sys.executable, "-m", "flexiroaster", "worker"], env=environment, stderr=file)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_another_worker_continues_after_a_hand_over(settings: Settings, tmp_path: Path, end: signal.Signals) -> None:
    go_on = tmp_path / "go-on"
    first = start_worker(settings, tmp_path / "first.log")
    second = None
    try:
        with open_installation(settings) as installation:
            waits = python("b", "wait_for_file", "a", arguments={"path": str(go_on)})
            x = begin_elsewhere(installation, rows("a", {"x": 1}), waits)
            eventually(lambda: executions.stages(installation, x)[1].status == "running")
            done_before = executions.stages(installation, x)[0].completed_at
            second = start_worker(settings, tmp_path / "second.log")
            eventually(lambda: b"Working;" in (tmp_path / "second.log").read_bytes())
            first.send_signal(end)
            first.wait(120)
            if end is signal.SIGKILL:
                expire_leases(installation.database, first.pid)
            eventually(lambda: any(e.type == "stage.interrupted" for e in executions.events(installation, x)))
            if end is signal.SIGTERM:
                eventually(lambda: executions.stages(installation, x)[1].status == "running")
                told = [e.type for e in executions.events(installation, x)]
                assert "execution.released" in told, "it was handed over, nobody waited for the end of its lease"
            go_on.touch()
            assert eventually(lambda: executions.get(installation, x).status == "completed")
            stages = executions.stages(installation, x)
            assert (stages[0].completed_at, stages[1].attempt) == (done_before, 1)
            assert seqs_have_no_gap(installation, x)
    finally:
        for worker in (first, second):
            if worker is not None and worker.poll() is None:
                worker.terminate()
                worker.wait(120)


def begin_elsewhere(installation: Installation, *stages: dict[str, Any]) -> str:
    revision = pipelines.create(installation, {"name": "T", "stages": list(stages)})
    return executions.start(installation, revision, drive=False)


def test_rerun_keeps_completed_stages(installation: Installation, tmp_path: Path) -> None:
    counter = {"path": str(tmp_path / "count"), "failures": 0}
    x = begin(
        installation,
        rows("a", {"x": 1}),
        python("b", "fail_first", "a", arguments=counter),
        {"id": "s", "type": "output", "dependencies": ["b"], "config": {"destination": "database", "table": "t"}},
        concurrency=None,
    )
    first = executions.wait(installation, x, timeout=120)
    y = executions.rerun(installation, x, "b")
    second = executions.wait(installation, y, timeout=120)
    assert (first.status, second.status, y != x) == ("completed", "completed", True)
    assert (tmp_path / "count").read_text() == "2", "the stage ran again"
    stages = stages_of(installation, second)
    assert stages["a"].started_at is None, "what was done before was not done again"
    assert stages["a"].output == stages_of(installation, first)["a"].output
    assert table_rows(installation.settings.output_database_url, "t") == [(1,), (1,)], "a new execution, a new effect"
    assert seqs_have_no_gap(installation, y)
    with pytest.raises(NotFoundError, match=r"^Stage not found: bb; did you mean 'b'\?$"):
        executions.rerun(installation, x, "bb")
