"""A lease that was lost, by a real worker that was killed, is counted by an API that drives nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.event import EventType
from flexiroaster.service.admin import metrics
from flexiroaster.service.executions import commands, executions
from tests.integration.program import started
from tests.integration.rest_compat.client import INPUT, serving, waiting
from tests.integration.rest_compat.test_exposition import figures
from tests.leases import expire_leases
from tests.waiting import eventually


@contextmanager
def worker(settings: Settings, log: Path) -> Iterator[Popen[str]]:
    """`flexiroaster worker` on the same installation, with leases that do not run out by themselves."""
    env = {
        "DATABASE_URL": settings.database_url,
        "ARTIFACTS_URL": settings.artifacts_url,
        "PYTHON_MODULES": '["tests.integration.stages"]',
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "EXECUTOR_WORKERS": "2",
        "EXECUTION_LOCK_TTL": "600",
        "HEARTBEAT_INTERVAL": "2",
    }
    with log.open("w") as file:
        process = started("worker", env=env, stdout=file, stderr=file)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_lost_lease_is_counted_and_nothing_else_that_is_claimed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to end, a pause and a resume count nothing; one that is killed counts what it drove."""
    monkeypatch.setattr(metrics, "SETTLE_TIME", metrics.SETTLE_TIME * 0)
    own = {"artifacts_url": str(tmp_path / "artifacts"), "python_modules": ("tests.integration.stages",)}
    settings = settings.model_copy(update=own)
    gate = tmp_path / "gate"
    with serving(settings, executor=False) as rest:

        def lost() -> float:
            return figures(rest)["flexiroaster_lease_losses_total", ""]

        def began(number: int) -> bool:
            log = executions.events(rest.installation, execution_id)
            return sum(event.type is EventType.STAGE_STARTED for event in log) == number

        assert lost() == 0
        with worker(settings, tmp_path / "1.log") as one:
            execution_id = rest.start(rest.pipeline(INPUT, {**waiting(gate), "dependencies": ["load"]}))
            eventually(lambda: began(2), within=60)
            commands.pause(rest.installation, execution_id, interrupt=True)
            rest.reaches(execution_id, "paused")
            commands.resume(rest.installation, execution_id)
            eventually(lambda: began(3), within=60)
            one.send_signal(signal.SIGTERM)
            assert one.wait(timeout=60) == 0
        with worker(settings, tmp_path / "2.log") as two:
            eventually(lambda: began(4), within=60)
            assert lost() == 0
            os.killpg(two.pid, signal.SIGKILL)
            two.wait()
            expire_leases(rest.installation.database, two.pid)
        with worker(settings, tmp_path / "3.log") as three:
            eventually(lambda: began(5), within=60)
            assert lost() == 1
            gate.touch()
            rest.reaches(execution_id, "completed")
            assert lost() == 1
            three.send_signal(signal.SIGTERM)
            assert three.wait(timeout=60) == 0
        (taken,) = [
            e for e in executions.events(rest.installation, execution_id) if e.type is EventType.EXECUTION_CLAIMED
        ]
        assert f":{two.pid}:" in str((taken.data or {})["lost_by"])
        assert "the lease of its worker expired" in taken.message
