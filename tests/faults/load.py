"""An installation under load: PostgreSQL, Redis, a server that drives nothing, two workers, and clients.

All of them are processes of their own. Meanwhile a worker may be killed and Redis stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flexiroaster.config import Settings
from flexiroaster.model.event import EventType
from flexiroaster.service import pipelines
from tests.faults import workload
from tests.faults.conftest import Site, opened_site
from tests.faults.load_clients import Seen
from tests.faults.processes import ROOT, Process
from tests.faults.valkey import Valkey
from tests.proxy import free_port
from tests.waiting import eventually

__all__ = ["Clients", "Loaded", "loaded"]


class Clients:
    """The process with the clients."""

    def __init__(self, url: str, count: int, seconds: float, pipeline: str = "") -> None:
        arguments = [sys.executable, "-m", "tests.faults.load_clients", url, str(count), str(seconds)]
        self._process = subprocess.Popen(
            arguments + [pipeline] * bool(pipeline), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def wait_until_asking(self) -> None:
        """Until every client has its first answer."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asking\n"

    def result(self, within: float = 600.0) -> Seen:
        """What they saw, once they have ended; until this is asked for they go on."""
        told, _ = self._process.communicate(timeout=within)
        assert self._process.returncode == 0
        return Seen(**json.loads(told))

    def end(self) -> None:
        """Whatever they do."""
        self._process.kill()
        self._process.communicate()


@dataclass(slots=True)
class Loaded:
    """The installation, with what is to be killed and stopped."""

    site: Site
    valkey: Valkey
    url: str
    workers: list[Process]
    pipeline: str

    def asked(self, clients: int, seconds: float, kill_after: float | None = None, away: float = 0.0) -> Seen:
        """Have clients ask for so long at least; what they saw.

        So many seconds after the first answers a worker is killed, and another one takes its place once Redis, which is
        stopped at the same time, is back after `away` seconds. Either time lasts until the clients have been served.
        """
        asking = Clients(self.url, clients, seconds, self.pipeline)
        try:
            asking.wait_until_asking()
            if kill_after is not None:
                self._let_pass(kill_after)
                self.workers[0].kill()
                self.workers[0].wait()
                self.site.gone(self.workers[0])
                with self.valkey.killed():
                    self._let_pass(away)
                self.workers[0] = self.site.fleet.worker()
            return asking.result()
        finally:
            asking.end()

    def _let_pass(self, seconds: float, starts: int = 3) -> None:
        """So much time, and until the clients have started something meanwhile."""
        before = self._started()
        time.sleep(seconds)  # what is measured has its length
        eventually(lambda: self._started() >= before + starts, what="a start")

    def _started(self) -> int:
        return self.site.checker.count_events(EventType.EXECUTION_CREATED)

    def violations(self, seen: Seen) -> list[str]:
        """What is wrong in the database after the executions that were accepted: each ran to its end, once."""
        accepted = list(seen.started.values())
        self.site.wait(accepted)
        with httpx.Client(base_url=self.url, timeout=60) as http:
            total = http.get("/api/executions", params={"pipeline_id": self.pipeline, "limit": 1}).json()["total"]
        problems = [] if total == len(set(accepted)) else [f"{len(set(accepted))} accepted, {total} there"]
        if self.site.checker.count_events(EventType.EXECUTION_COMPLETED) != len(set(accepted)):
            problems.append("not as many ends as executions")
        return problems + self.site.checker.violations(accepted, ends={"completed"})


@contextmanager
def loaded(settings: Settings, folder: Path) -> Iterator[Loaded]:
    """The installation on the database of the settings, ready."""
    valkey = Valkey()
    try:
        with opened_site(settings, folder, redis_url=valkey.url) as site:
            made = pipelines.create(site.installation, _small())
            workers = [site.fleet.worker() for _ in range(2)]
            port = free_port()
            server = site.fleet.start(["-m", "flexiroaster", "serve", "--no-executor", "--port", str(port)])
            url = f"http://127.0.0.1:{port}"
            for worker in workers:
                worker.wait_until_working()
            eventually(lambda: _answers(url, server), what="the server")
            yield Loaded(site, valkey, url, workers, made.id)
    finally:
        valkey.close()


def _small() -> dict[str, Any]:
    """A stage that makes rows and one that saves them; the checker counts what was saved."""
    append = {"destination": "database", "table": workload.TABLE}
    save = {"id": "save", "type": "output", "config": append, "dependencies": ["source"]}
    stages = [workload.python("source", "numbers", rows=workload.ROWS), save]
    return {"name": "Small", "concurrency": None, "stages": stages}


def _answers(url: str, server: Process) -> bool:
    assert server.ended is None, server.log
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False
