"""Redis goes away, in every way there is, in the middle of executions that two workers drive: no result is wrong.

While it is away executions go on and none loses its driver, a pipeline that may run once still runs once, executions
of another one still stand in line, and a reader of live events sees them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import ConflictError
from flexiroaster.model.event import EventType
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.events import follow
from tests.faults import workload
from tests.faults.conftest import Site, opened_site
from tests.faults.processes import Process
from tests.faults.tiers import DATABASES, full, record, trials
from tests.faults.valkey import Valkey
from tests.proxy import Proxy, free_port, running_proxy
from tests.waiting import eventually

LEASES = {"execution_lock_ttl": 6.0 if full() else 60.0, "heartbeat_interval": 1.0, "redis_socket_timeout": 2.0}
"""With all trials a lease is so short that waiting for Redis a few times would cost it. Else a busy machine must not
cost one, as nothing but Redis goes away here.
"""

COUNT = trials(20, 200)
FLUSHES = trials(5, 50)
GONE, BACK = "is unavailable, using the database", "is available again"


@dataclass(slots=True)
class Scene:
    """Two workers, each with a way of its own to the same Redis."""

    site: Site
    valkey: Valkey
    ways: tuple[Proxy, Proxy]
    workers: list[Process] = field(default_factory=list)

    def noticed(self, *workers: Process) -> None:
        """Wait until these know that Redis is away."""
        for worker in workers:
            eventually(lambda w=worker: GONE in w.log, what="the notice that Redis is away")

    def back(self, *workers: Process) -> None:
        """Wait until these use it again."""
        for worker in workers:
            eventually(lambda w=worker: BACK in w.log.rpartition(GONE)[2], what="the return to Redis")

    def in_use(self, worker: Process) -> None:
        """Wait until this one uses Redis; on a busy machine a late answer may have cost it that for a moment."""
        eventually(lambda: GONE not in worker.log.rpartition(BACK)[2], what="the use of Redis")


@contextmanager
def _killed(scene: Scene) -> Iterator[None]:
    with scene.valkey.killed():
        scene.noticed(*scene.workers)
        yield
    scene.back(*scene.workers)


@contextmanager
def _frozen(scene: Scene) -> Iterator[None]:
    with scene.valkey.frozen():
        scene.noticed(*scene.workers)
        yield
    scene.back(*scene.workers)


@contextmanager
def _cut_off(scene: Scene) -> Iterator[None]:
    scene.ways[0].cut()
    scene.noticed(scene.workers[0])
    yield
    scene.in_use(scene.workers[1])
    scene.ways[0].mend()
    scene.back(scene.workers[0])


@contextmanager
def _swallowed(scene: Scene) -> Iterator[None]:
    """What one worker says arrives nowhere; at the end all of it arrives, late."""
    scene.ways[0].freeze()
    scene.noticed(scene.workers[0])
    yield
    scene.in_use(scene.workers[1])
    scene.ways[0].thaw()
    scene.back(scene.workers[0])


OUTAGES: dict[str, Callable[[Scene], AbstractContextManager[None]]] = {
    "absent": lambda _scene: nullcontext(),
    "killed": _killed,
    "flushed every 100 ms": lambda scene: scene.valkey.flushed(FLUSHES),
    "frozen": _frozen,
    "cut off for one worker": _cut_off,
    "silent for one worker": _swallowed,
}
CASES = [
    (database, outage) for i, outage in enumerate(OUTAGES) for database in (DATABASES if full() else [DATABASES[i % 2]])
]
"""Every outage on both databases; in the short tier on one of them, in turn."""


@pytest.fixture
def scene(settings: Settings, tmp_path: Path, outage: str) -> Iterator[Scene]:
    valkey = Valkey()
    try:
        with (
            running_proxy("127.0.0.1", valkey.port) as one,
            running_proxy("127.0.0.1", valkey.port) as other,
            opened_site(settings, tmp_path, **LEASES, redis_url=_address(valkey.port, outage)) as site,
        ):
            opened = Scene(site, valkey, (one, other))
            for way in opened.ways:
                worker = site.fleet.worker(redis_url=_address(way.port, outage))
                opened.workers.append(worker.wait_until_working())
            yield opened
    finally:
        valkey.close()


def _address(port: int, outage: str) -> str:
    return f"redis://127.0.0.1:{free_port() if outage == 'absent' else port}/0"


@pytest.mark.parametrize(("database_url", "outage"), CASES, indirect=["database_url"])
def test_no_result_is_wrong(scene: Scene, outage: str) -> None:
    site = scene.site
    many = pipelines.create(site.installation, workload.outputs_pipeline(site.folder))
    line = pipelines.create(
        site.installation, {**workload.outputs_pipeline(site.folder), "concurrency": 1, "on_conflict": "queue"}
    )
    go_on = site.folder / "go-on"
    once = pipelines.create(site.installation, workload.waiting_pipeline(go_on, concurrency=1))
    (only,) = workload.start_again(site.installation, once, 1)
    problems: list[str] = []
    with _read(site, only, problems):
        in_line = workload.start_again(site.installation, line, 3)
        started = workload.start_again(site.installation, many, COUNT // 4)
        eventually(lambda: _ended(site, started) > 0, what="the first end")
        with OUTAGES[outage](scene):
            during = workload.start_again(site.installation, many, COUNT // 2)
            in_line += workload.start_again(site.installation, line, 2)
            problems += _second_starts(site, once)
            eventually(lambda: _ended(site, during) >= len(during) // 2, what="the end of half of them")
        go_on.touch()
        started += during
        started += workload.start_again(site.installation, many, COUNT - len(started))
        everything = [*started, *in_line, only]
        site.wait(everything)
    problems += site.checker.violations(everything, ends={"completed"})
    problems += site.checker.overlaps(in_line)
    problems += ["an execution lost its driver"] * site.checker.count_events(EventType.STAGE_INTERRUPTED)
    record(f"Redis {outage} during executions: no wrong result", site.database, len(everything), problems)
    assert problems == []


def _ended(site: Site, started: list[str]) -> int:
    return sum(status == "completed" for status in site.checker.statuses(started).values())


def _second_starts(site: Site, once: pipelines.Revision) -> list[str]:
    """A pipeline that is running and may run once is started again, in vain."""
    problems = []
    for _ in range(5):
        try:
            problems.append(f"{executions.start(site.installation, once, drive=False)}: runs beside another one")
        except ConflictError:
            continue
    return problems


@contextmanager
def _read(site: Site, execution: str, problems: list[str]) -> Iterator[None]:
    """A reader of live events, until the execution ends: it sees each of them once and in order."""
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(e.seq for e in follow(site.installation, execution)))
    reader.start()
    try:
        yield
    finally:
        (site.folder / "go-on").touch()
        reader.join(300)
    events = [event.seq for event in site.checker.log_of(execution)]
    if seen != events:
        problems.append(f"{execution}: a reader saw the events {seen} of {events}")
