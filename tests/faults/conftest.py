"""A site: an installation's database and folders, its checker, and the processes that work on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.installation import Installation
from flexiroaster.service.stage_access import access_of
from tests.faults import workload
from tests.faults.checker import Checker
from tests.faults.processes import Fleet, Process
from tests.faults.tiers import full
from tests.leases import expire_leases
from tests.waiting import eventually

LEASE_SECONDS = 2.0 if full() else 60.0
"""With all trials leases run out by themselves. Else no busy machine may cost one: `Site.gone` ends them."""


@dataclass(slots=True)
class Site:
    """All that a fault test works with. `installation` drives nothing, it only starts executions."""

    settings: Settings
    folder: Path
    installation: Installation
    checker: Checker
    fleet: Fleet

    @property
    def database(self) -> str:
        return "SQLite" if self.settings.database_url.startswith("sqlite") else "PostgreSQL"

    def start(self, count: int) -> list[str]:
        """Executions of the outputs pipeline, which anybody may claim."""
        return workload.start(self.installation, workload.outputs_pipeline(self.folder), count)

    def gone(self, process: Process) -> None:
        """A process is dead or frozen: let its leases run out, unless they soon do so by themselves."""
        if not full():
            expire_leases(self.installation.database, process.pid)

    def wait(self, executions: list[str], seconds: float = 300.0) -> None:
        """Until all have ended; those that have not are the checker's to tell."""
        try:
            eventually(lambda: self.checker.all_ended(executions), seconds)
        except AssertionError:
            print(f"not ended within {seconds:g} s:")
            self._show([i for i, status in self.checker.statuses(executions).items() if status not in TERMINAL])

    def _show(self, executions: list[str]) -> None:
        """What there is to see of executions that are stuck, before the processes are gone."""
        for execution in executions:
            print(self.checker.execution(execution))
            for event in self.checker.log_of(execution):
                print("  ", event.seq, event.at, event.type, event.stage_id, event.attempt, event.message)
        for process in self.fleet.processes:
            if process.ended is None:
                print(f"{process.log_path.name}, pid {process.pid}, frozen: {process.frozen}:\n{process.log[-2000:]}")


@pytest.fixture(scope="session")
def durable() -> bool:
    """With all trials: what the promises are measured with is set as an installation is."""
    return full()


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Iterator[Site]:
    with opened_site(settings, tmp_path) as opened:
        yield opened


@contextmanager
def opened_site(settings: Settings, folder: Path, **changes: Any) -> Iterator[Site]:
    """A site on the database of the settings, with leases of `LEASE_SECONDS` unless `changes` say otherwise."""
    postgres = settings.database_url.startswith("postgresql")
    values: dict[str, Any] = {
        "python_modules": (workload.FUNCTIONS,),
        "file_roots": (str(folder),),
        "executor_stop_grace": 0.5,
        "execution_lock_ttl": LEASE_SECONDS,
        "heartbeat_interval": 0.5,
        "artifacts_url": str(folder / "artifacts"),
        "output_database_url": settings.database_url if postgres else f"sqlite:///{folder / 'output.db'}",
        "redis_url": "redis://127.0.0.1:1/0",
    }
    opened = settings.model_copy(update=values | changes)
    installation = Installation(opened)
    fleet = Fleet(opened, folder)
    checker = Checker(opened.database_url, access_of(opened).output_url, folder / "files")
    try:
        yield Site(opened, folder, installation, checker, fleet)
    finally:
        fleet.close()
        checker.close()
        installation.close()
