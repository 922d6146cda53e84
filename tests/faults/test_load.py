"""Many clients, a worker that dies and a Redis that goes away meanwhile: no request fails, no execution is lost."""

from __future__ import annotations

from pathlib import Path

from flexiroaster.config import load_settings
from tests.faults.load import loaded


def test_no_request_fails_while_a_worker_is_killed_and_redis_stopped(postgres_url: str, tmp_path: Path) -> None:
    settings = load_settings(database_url=postgres_url, executor_workers=2)
    with loaded(settings, tmp_path) as installation:
        seen = installation.asked(clients=10, seconds=4, kill_after=1, away=1.5)
        print(f"{len(seen.reads)} reads, {len(seen.starts)} starts in {seen.seconds:.1f} s")
        assert seen.errors == []
        assert len(seen.reads) > len(seen.starts) > 0
        assert installation.violations(seen) == []
