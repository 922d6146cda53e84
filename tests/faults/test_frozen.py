"""A worker that is frozen past its lease, replaced, and thawed: it must not write anything any more.

The same trials with the fence taken out must break the promise: otherwise they, or the checker, prove nothing.
"""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.faults.conftest import Site
from tests.faults.processes import Process
from tests.faults.tiers import databases, record, trials
from tests.waiting import eventually

PROMISE = "SIGSTOP until the lease expires, claim by another worker, SIGCONT: no stale write"

POINTS = ("journal.before_commit", "driver.after_end", "driver.before_start", "leases.before_renew", "")
"""Where the worker freezes; "": it is frozen from outside, at any moment."""

GAVE_UP = ("lost the lease", "another driver has taken over", "no lease could be renewed", "cannot write the state")


@pytest.fixture
def rng() -> random.Random:
    return random.Random(20261102)


def test_a_frozen_worker_writes_nothing_when_it_thaws(site: Site, rng: random.Random) -> None:
    count = trials(2, 27)
    offset = 1 if site.database == "SQLite" else 0
    replaced, problems = 0, []
    for number in range(count):
        found = _trial(site, POINTS[(number + offset) % len(POINTS)], rng, ["-m", "flexiroaster", "worker"])
        replaced += found.replaced
        problems += found.problems
    record(PROMISE, site.database, replaced, problems)
    assert problems == []
    assert replaced > count / 2


@databases("sqlite")
def test_without_the_fence_it_does(site: Site, rng: random.Random) -> None:
    replaced, problems = 0, []
    for _ in range(trials(1, 10)):
        found = _trial(site, "journal.before_commit", rng, ["-m", "tests.faults.unfenced_worker", "worker"])
        replaced += found.replaced
        problems += found.problems
    record(f"{PROMISE} (fencing disabled: violations must be found)", site.database, replaced, problems)
    assert problems != [], "the trials find nothing, so they prove nothing"


class Found(NamedTuple):
    """What a trial found wrong, and whether the frozen worker was replaced before it thawed."""

    problems: list[str]
    replaced: bool


def _trial(site: Site, point: str, rng: random.Random, program: list[str]) -> Found:
    """One worker frozen, its executions ended by another, then thawed; what is wrong with them afterwards."""
    executions = site.start(4)
    frozen = _frozen(site, point, rng, program)
    owners = [site.checker.execution(i).lease_owner for i in executions]
    if _holds_the_write_lock(site):  # asked while no other process can hold it
        frozen.thaw()
        site.wait(executions)
        site.fleet.end(frozen)
        return Found(site.checker.violations(executions, ends={"completed"}), replaced=False)
    site.gone(frozen)
    other = site.fleet.start(program)
    site.wait(executions)
    before = site.checker.snapshot(executions)
    frozen.thaw()
    if point and any((owner or "").split(":")[1:2] == [str(frozen.pid)] for owner in owners):
        eventually(lambda: any(told in frozen.log for told in GAVE_UP), what="giving up")
    site.wait(site.start(1))  # what the thawed worker had in hand is out before it claims again
    site.fleet.end(frozen, other)
    problems = site.checker.violations(executions, ends={"completed"})
    if site.checker.snapshot(executions) != before:
        problems.append(f"frozen at {point or 'any moment'}: something was written after the thaw")
    return Found(problems, replaced=True)


def _holds_the_write_lock(site: Site) -> bool:
    """SQLite has one writer: whoever is frozen while it writes holds up all others, and nobody can replace it."""
    if site.database != "SQLite":
        return False
    path = site.settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
    return False


def _frozen(site: Site, point: str, rng: random.Random, program: list[str]) -> Process:
    """A worker that has begun to work and does not go on."""
    if point:
        passed = 1 if point == "leases.before_renew" else rng.randint(1, 4)
        worker = site.fleet.start(program, f"{point}=freeze@{passed}")
        eventually(lambda: worker.frozen, what=f"the freeze at {point}@{passed}")
        return worker
    worker = site.fleet.start(program)
    eventually(lambda: "stage.started" in worker.log, what="the first stage")
    time.sleep(rng.uniform(0.0, 0.3))  # any moment: nothing waits for it
    worker.freeze()
    return worker
