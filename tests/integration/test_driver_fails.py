"""A driver that fails inside: it lets go of everything, says so once, and others go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from flexiroaster import faults
from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.service import executions, pipelines
from flexiroaster.service.installation import open_installation
from tests.integration.test_control import begin_elsewhere, eventually, seqs_have_no_gap, settings, start_worker
from tests.integration.test_runs import python, rows

__all__ = ["settings"]  # the fixture, with short leases


def test_its_worker_ends_and_another_goes_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "driver.after_end=raise")
    log = tmp_path / "worker.log"
    worker = start_worker(settings, log)
    monkeypatch.delenv(faults.VARIABLE)
    try:
        with open_installation(settings) as installation:
            x = begin_elsewhere(installation, rows("a", {"x": 1}), python("b", "two", "a"))
            assert worker.wait(60) == 1
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            grave = [line for line in lines if line["level"] in {"warning", "error", "critical"}]
            told = "the driver has failed; others go on with its 1 executions when their leases run out"
            assert [(line["level"], line["event"]) for line in grave] == [("critical", told)]
            assert "InjectedFault" in json.dumps(grave[0]["exception"])
            assert executions.get(installation, x).status == "running", "it gave nothing up that it could not write"
            installation.take_work()
            eventually(lambda: executions.get(installation, x).status == "completed")
            assert seqs_have_no_gap(installation, x)
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait(20)


def test_nobody_waits_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_installation(settings) as installation:
        installation.take_work()
        revision = pipelines.create(installation, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
        monkeypatch.setattr(faults, "_ARMED", faults._armed("driver.after_end=raise"))
        x = executions.start(installation, revision)
        with pytest.raises(StoreError, match=r"^the driver failed: InjectedFault\('driver.after_end'\)$"):
            executions.wait(installation, x, 30)
        eventually(lambda: not installation.healthy)
        y = executions.start(installation, revision)
        assert executions.wait(installation, y, 0.1).status == "pending", "that is for another process"
        assert installation.driver.driven == set()
    assert [r.levelno for r in caplog.records if r.name.startswith("flexiroaster")] == [logging.CRITICAL]
    with open_installation(settings) as another:
        another.take_work()
        eventually(lambda: {str(executions.get(another, i).status) for i in (x, y)} == {"completed"})
