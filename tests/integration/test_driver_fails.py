"""A defect in one execution abandons only that one; a defect of the driver abandons all and is logged once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service import local, pipelines
from flexiroaster.service.admin import metrics
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.journal.sqlite import SqliteBackend
from tests.integration.test_control import begin_elsewhere, seqs_have_no_gap, settings, start_worker
from tests.integration.test_runs import python, rows
from tests.leases import expire_leases
from tests.waiting import eventually

__all__ = ["settings"]  # the fixture


def test_a_worker_exits_after_its_driver_fails_and_another_continues(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "driver.before_start=raise")
    log = tmp_path / "worker.log"
    worker = start_worker(settings, log)
    monkeypatch.delenv(failpoints.VARIABLE)
    try:
        with open_installation(settings) as installation:
            x = begin_elsewhere(installation, rows("a", {"x": 1}), python("b", "two", "a"))
            assert worker.wait(120) == 1
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            grave = [line for line in lines if line["level"] in {"warning", "error", "critical"}]
            told = "the driver has failed; other workers will resume its 1 executions once their leases expire"
            assert [(line["level"], line["event"]) for line in grave] == [("critical", told)]
            assert "InjectedFault" in json.dumps(grave[0]["exception"])
            assert executions.get(installation, x).status == "running", "it gave nothing up that it could not write"
            expire_leases(installation.database, worker.pid)
            installation.start_claiming()
            eventually(lambda: executions.get(installation, x).status == "completed")
            assert seqs_have_no_gap(installation, x)
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait(120)


def fails_once_it_is_waited_for(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver fails once, before it starts a stage and after a thread waits for the execution."""
    failed = []

    def point(name: str) -> None:
        if name == "driver.before_start" and not failed:
            failed.append(name)
            eventually(lambda: any(driven.ended._cond._waiters for driven in installation.driver._driven.all()))
            raise failpoints.InjectedFault(name)

    monkeypatch.setattr(failpoints, "point", point)


def test_waiting_threads_get_the_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_installation(settings) as installation:
        installation.start_claiming()
        revision = pipelines.create(installation, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
        fails_once_it_is_waited_for(installation, monkeypatch)
        x = executions.start(installation, revision)
        with pytest.raises(StoreError, match=r"^the driver failed: InjectedFault\('driver.before_start'\)$"):
            executions.wait(installation, x, timeout=120)
        eventually(lambda: not installation.healthy)
        report = metrics.check(installation)
        assert (report.executor.status, report.ready) == ("unhealthy", False)
        assert report.executor.details["failing"] == {"flexiroaster-driver": "InjectedFault: driver.before_start"}
        y = executions.start(installation, revision)
        assert executions.wait(installation, y, 0.1).status == "pending", "that is for another process"
        assert installation.driver.driven == set()
    assert [r.levelno for r in caplog.records if r.name.startswith("flexiroaster")] == [logging.CRITICAL]
    with open_installation(settings) as another:
        expire_leases(another.database, installation.owner)
        another.start_claiming()
        eventually(lambda: {str(executions.get(another, i).status) for i in (x, y)} == {"completed"})


def test_an_execution_with_a_defect_is_abandoned_and_claimed_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_installation(settings) as installation:
        installation.start_claiming()
        revision = pipelines.create(installation, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
        monkeypatch.setattr(failpoints, "_ARMED", failpoints._armed("driver.after_end=raise"))
        x = executions.start(installation, revision)
        with pytest.raises(StoreError, match=r"^the driver failed: InjectedFault\('driver.after_end'\)$"):
            executions.wait(installation, x, 120)
        y = executions.start(installation, revision)
        assert executions.wait(installation, y, 120).status == "completed", "the driver goes on"
        expire_leases(installation.database, installation.owner)
        eventually(lambda: executions.get(installation, x).status == "completed")
        assert installation.healthy
        assert seqs_have_no_gap(installation, x)
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert told == [f"abandoning execution {x}: the driver failed while processing it"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_defect_in_one_execution_does_not_affect_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The state machine or the journal raises for the executions of one pipeline."""

    def failing_for(name: str, places: type, method: str) -> None:
        original = getattr(places, method)

        def call(self: Any, *arguments: Any) -> Any:
            if isinstance(self, Execution):
                hit = self.pipeline.name == name
            else:
                hit = any(change.pipeline_id == name for change in arguments[1])
            if hit:
                raise RuntimeError(name)
            return original(self, *arguments)

        monkeypatch.setattr(places, method, call)

    methods = dict.fromkeys(
        ("begin_if_pending", "start_next", "stage_completed", "stage_failed", "collect_transition"), Execution
    )
    victims = {**methods, "apply": SqliteBackend}
    for name, places in victims.items():
        failing_for(name, places, name)
    with open_installation(settings) as installation:
        stages = {name: rows("a", {"x": 1}) for name in victims} | {"stage_failed": python("a", "exit_3")}
        ids = []
        for name, stage in stages.items():
            body = {"id": name, "name": name, "stages": [stage]}
            ids.append(executions.start(installation, pipelines.create(installation, body)))
        well = pipelines.create(installation, {"name": "well", "stages": [rows("a", {"x": 1})]})
        assert executions.wait(installation, executions.start(installation, well), 60).status == "completed"
        eventually(lambda: installation.driver.driven == set())
        assert installation.healthy
        assert not {executions.get(installation, i).status for i in ids} & TERMINAL, "others may try"
    raised = {str(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert raised == set(victims)


def test_runs_from_python_work_after_the_driver_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = local._Shared()
    first = shared.installation()
    revision = pipelines.create(first, {"name": "T", "stages": [rows("a", {"x": 1})]})
    fails_once_it_is_waited_for(first, monkeypatch)
    with pytest.raises(StoreError, match=r"^the driver failed"):
        executions.wait(first, executions.start(first, revision), 60)
    eventually(lambda: not first.healthy)
    second = shared.installation()
    assert second is not first
    again = pipelines.create(second, {"name": "Again", "stages": [rows("a", {"x": 1})]})
    assert executions.wait(second, executions.start(second, again), 60).status == "completed"
    assert shared.installation() is second
    shared.close()
