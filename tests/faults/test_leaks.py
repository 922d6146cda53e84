"""A process that has run many executions, and had as many readers that went away, holds no more than before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.events import follow
from flexiroaster.service.installation import Installation, open_installation
from tests.faults import workload
from tests.faults.conftest import Site
from tests.faults.tiers import record
from tests.waiting import eventually, open_descriptors

EXECUTIONS = 200


class Held(NamedTuple):
    descriptors: int
    threads: int
    connections: int


def _held(installation: Installation) -> Held:
    pool = installation.database.engine.pool
    connections = pool.checkedout() + pool.checkedin()  # type: ignore[attr-defined]  # of the pool that engines use
    return Held(len(open_descriptors()), threading.active_count(), connections)


@pytest.fixture
def installation(site: Site, redis_url: str) -> Iterator[Installation]:
    """With Redis, which is one more thing that connections and threads are held for."""
    with open_installation(site.settings.model_copy(update={"redis_url": redis_url})) as opened:
        opened.start_claiming()
        yield opened


def test_nothing_is_left_over(installation: Installation, site: Site) -> None:
    body = {"name": "Leaks", "concurrency": None, "stages": [workload.python("numbers", "numbers", rows=1)]}
    short = pipelines.create(installation, body)
    go_on = site.folder / "go-on"
    long = pipelines.create(installation, workload.waiting_pipeline(go_on))
    watched = executions.start(installation, long)
    _run(installation, short, 20)
    _abandon_readers(installation, watched, 20)
    _fill_the_pool(installation)
    before = _held(installation)
    _run(installation, short, EXECUTIONS)
    _abandon_readers(installation, watched, EXECUTIONS)
    go_on.touch()
    assert executions.wait(installation, watched, 120).status == "completed"
    limits = Held(2, 2, 0)
    with suppress(AssertionError):  # what is still there after that time is a leak, and told below
        eventually(lambda: all(n <= w + m for n, w, m in zip(_held(installation), before, limits, strict=True)), 60)
    after = _held(installation)
    problems = [
        f"{name}: {was} before, {now} after"
        for name, was, now, more in zip(Held._fields, before, after, limits, strict=True)
        if now > was + more
    ]
    record("200 executions and 200 abandoned readers: nothing leaks", site.database, 2 * EXECUTIONS, problems)
    assert problems == []


def _abandon_readers(installation: Installation, execution: str, count: int) -> None:
    """So many read live events at once, and go away in the middle; as many wait for the end, and give up."""
    readers = [follow(installation, execution) for _ in range(count)]
    assert {next(reader).seq for reader in readers} == {1}
    readers.clear()
    for _ in range(count):
        assert executions.wait(installation, execution, timeout=0.001).status in {"pending", "running"}


def _fill_the_pool(installation: Installation) -> None:
    """It opens connections when several are needed at once and keeps them: let that have happened before."""
    pool = installation.database.engine.pool
    with ExitStack() as stack:
        for _ in range(pool.size() - pool.checkedout()):  # type: ignore[attr-defined]  # as above
            stack.enter_context(installation.database.read())


def _run(installation: Installation, revision: pipelines.Revision, count: int) -> None:
    ids = [executions.start(installation, revision) for _ in range(count)]
    assert {executions.wait(installation, i, 300).status for i in ids} == {"completed"}
