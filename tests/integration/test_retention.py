"""Pruning: what ended long ago goes, with all that belongs to it, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update

from flexiroaster.artifacts.store import SCRATCH
from flexiroaster.config import Settings
from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.service import pipelines
from flexiroaster.service.admin import maintenance
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import tables
from flexiroaster.store.journal.transitions import Applied
from flexiroaster.store.journal.writer import Change
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.waiting import eventually


@pytest.fixture
def installation(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    changes = {"python_modules": (FUNCTIONS,), "artifacts_url": str(tmp_path / "artifacts")}
    with open_installation(settings.model_copy(update=changes)) as opened:
        yield opened


def age(installation: Installation, execution_id: str, days: int) -> None:
    at = utc_now() - timedelta(days=days)
    with installation.database.write() as connection:
        values = {"created_at": at, "started_at": at, "completed_at": at}
        connection.execute(
            update(tables.executions)
            .where(tables.executions.c.id == execution_id)
            .values({k: v for k, v in values.items() if k != "completed_at"})
        )
        done = tables.executions.c.completed_at.is_not(None) & (tables.executions.c.id == execution_id)
        connection.execute(update(tables.executions).where(done).values(completed_at=at))


def test_what_ended_long_ago_goes_and_the_rest_stays(installation: Installation, tmp_path: Path) -> None:
    revision = pipelines.create(installation, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
    old, new = (executions.start(installation, revision) for _ in range(2))
    slow = pipelines.create(installation, {"name": "T", "stages": [python("a", "sleep_long")]})
    running = executions.start(installation, slow)
    for execution_id in (old, new):
        executions.wait(installation, execution_id, timeout=120)
    eventually(lambda: executions.stages(installation, running)[0].status == "running")
    age(installation, old, 100)
    age(installation, running, 100)
    assert (tmp_path / "artifacts" / old).is_dir()

    assert maintenance.prune(installation, timedelta(days=90)) == 1
    with pytest.raises(NotFoundError):
        executions.get(installation, old)
    with installation.database.read() as connection:
        for table in (tables.events, tables.stage_runs):
            left = select(func.count()).select_from(table).where(table.c.execution_id == old)
            assert connection.execute(left).scalar_one() == 0
    assert not (tmp_path / "artifacts" / old).exists()
    assert executions.get(installation, new).status == "completed"
    assert (tmp_path / "artifacts" / new).is_dir()
    assert executions.get(installation, running).status == "running"
    assert maintenance.prune(installation, timedelta(days=90)) == 0
    commands.stop(installation, running)
    executions.wait(installation, running, timeout=120)


def test_what_a_rerun_reads_stays_until_the_rerun_goes(installation: Installation, tmp_path: Path) -> None:
    stages = [rows("a", {"x": 1}), python("b", "two", "a")]
    first = executions.start(installation, pipelines.create(installation, {"name": "T", "stages": stages}))
    assert executions.wait(installation, first, timeout=120).status == "completed"
    second = executions.rerun(installation, first, "b")
    assert executions.wait(installation, second, timeout=120).status == "completed"
    third = executions.rerun(installation, second, "b", drive=False)
    age(installation, first, 100)
    age(installation, second, 100)
    assert maintenance.prune(installation, timedelta(days=90)) == 0
    installation.start_claiming()
    assert executions.wait(installation, third, timeout=120).status == "completed", "it has read the table of the first"
    age(installation, third, 100)
    assert maintenance.prune(installation, timedelta(days=90)) == 3
    assert not any((tmp_path / "artifacts" / each).exists() for each in (first, second, third))


def test_a_rerun_of_what_is_pruned_meanwhile_says_so(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [rows("a", {"x": 1})]
    first = executions.start(installation, pipelines.create(installation, {"name": "T", "stages": stages}))
    executions.wait(installation, first, timeout=120)
    age(installation, first, 100)
    apply = installation.start_journal.apply

    def pruned_before(changes: Sequence[Change]) -> dict[str, Applied]:
        maintenance.prune(installation, timedelta(days=90))
        return apply(changes)

    monkeypatch.setattr(installation.start_journal, "apply", pruned_before)
    with pytest.raises(NotFoundError, match=f"^Execution not found: {first}$"):
        executions.rerun(installation, first, "a")
    assert executions.count(installation) == 0


def test_what_crashes_left_goes_and_the_rest_stays(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [rows("a", {"x": 1})]
    there = executions.start(installation, pipelines.create(installation, {"name": "T", "stages": stages}))
    executions.wait(installation, there, timeout=120)
    root = tmp_path / "artifacts"
    week = (utc_now() - timedelta(days=8)).timestamp()
    orphan, lately = (f"exec-{int(at.timestamp() * 1000):012x}00000000" for at in (long_ago(), utc_now()))
    gone = [root / orphan, root / there / f".a.1.arrow.{'0' * 32}", root / f"{SCRATCH}killed"]
    stay = [root / lately, root / "mine", root / f"{SCRATCH}running", root / there / f".b.1.arrow.{'0' * 32}"]
    for path in (*gone, *stay):
        path.touch() if path.name.startswith(".") and SCRATCH not in path.name else path.mkdir()
    for path in gone[1:]:
        os.utime(path, (week, week))
    assert maintenance.sweep(installation, timedelta(days=90)) == 3
    assert [path for path in gone if path.exists()] == []
    assert [path for path in stay if not path.exists()] == []
    assert (root / there / "a.1.1.arrow").is_file()

    monkeypatch.chdir(tmp_path)
    elsewhere = installation.settings.model_copy(update={"database_url": ""})
    (root / orphan).mkdir()
    with open_installation(elsewhere) as empty:
        assert maintenance.sweep(empty, timedelta(days=0)) == 0, "a database that knows nothing is another one"
    assert (root / there).is_dir()


def long_ago() -> datetime:
    return utc_now() - timedelta(days=100)


def test_records_go_by_their_own_settings(installation: Installation) -> None:
    with installation.database.write() as connection:
        entry = {"viewer": "ann", "role": "admin", "action": "stop", "arguments": {}, "outcome": "ok"}
        for days in (1, 399, 401):
            connection.execute(insert(tables.audit_log).values(at=utc_now() - timedelta(days=days), **entry))
    assert maintenance.prune_records(installation)["audit_log"] == 1
    with open_installation(installation.settings.model_copy(update={"retention_audit_days": 0})) as keeping:
        assert "audit_log" not in maintenance.prune_records(keeping)
    with open_installation(installation.settings.model_copy(update={"retention_audit_days": 2})) as forgetting:
        assert maintenance.prune_records(forgetting)["audit_log"] == 1
