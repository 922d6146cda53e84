"""SIGKILL at every named point: no execution is lost or stuck, no effect is missing or taken twice."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import sqlalchemy

from flexiroaster.model import failpoints
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.store.tables import executions as table
from tests.faults import workload
from tests.faults.conftest import Site
from tests.faults.processes import Process
from tests.faults.tiers import databases, full, record, trials
from tests.waiting import eventually

PROMISE = "SIGKILL of {} at every fault point: nothing lost, stuck or done twice"

WORKER_POINTS = {
    "journal.before_commit": 6,
    "journal.after_commit": 6,
    "driver.before_start": 8,
    "driver.after_end": 8,
    "scheduler.after_claim": 6,
    "scheduler.after_restore": 6,
    "leases.before_renew": 2,
}
"""The points that any worker comes to, and how often at most it is let pass before it is killed."""

STAGE_POINTS = ("attempt.before_run", "attempt.after_run", "artifacts.before_rename")
OTHER_POINTS = ("leases.after_release", "executions.after_create", "attempt.after_undo")


def test_every_point_has_its_test() -> None:
    assert {*WORKER_POINTS, *STAGE_POINTS, *OTHER_POINTS} == set(failpoints.POINTS)


def test_a_worker_killed_anywhere_costs_nothing(site: Site) -> None:
    """Two workers one after the other are killed, a third one goes on; a fourth claim would be one too many."""
    rng = random.Random(20261101)
    points = list(WORKER_POINTS.items())
    if not full():  # every other point, the others on the other database
        points = points[site.database == "SQLite" :: 2]
    plan = [point for point in points for _ in range(trials(1, 10))]
    rng.shuffle(plan)
    started: list[str] = []
    for pair in (plan[i : i + 2] for i in range(0, len(plan), 2)):
        of_pair: list[str] = []
        for name, most in pair:
            of_pair += site.start(4)
            _killed_at(site, name, rng.randint(1, trials(1, most)), of_pair)
        last = site.fleet.worker()
        site.wait(of_pair)
        site.fleet.end(last)
        started += of_pair
    problems = site.checker.violations(started, ends={"completed"})
    record(PROMISE.format("a worker"), site.database, len(plan), problems)
    assert problems == []


def _killed_at(site: Site, name: str, count: int, of_pair: list[str]) -> None:
    """Run a worker until it dies at that point; it gets more to do until it comes there so often."""
    worker = site.fleet.worker(f"{name}=kill@{count}")

    def died() -> bool:
        if worker.ended is None and site.checker.all_ended(of_pair):
            of_pair.extend(site.start(1))
        return worker.ended is not None

    eventually(died, what=f"the end of a worker at {name}@{count}")
    assert worker.killed, worker.log
    site.gone(worker)


@databases("sqlite")
def test_a_stage_process_killed_anywhere_is_an_attempt_that_failed(site: Site) -> None:
    """Every stage process dies at its second or a later attempt, the workers live."""
    total = 0
    rng = random.Random(7)
    started: list[str] = []
    for _ in range(trials(1, 3)):
        armed = [f"{name}=kill@{rng.randint(2, trials(2, 4))}" for name in STAGE_POINTS]
        workers = [site.fleet.worker(fault, executor_workers=1) for fault in armed]
        for worker in workers:
            worker.wait_until_working()
        of_round = site.start(4 * len(workers))

        def all_have_killed(workers: list[Process] = workers, of_round: list[str] = of_round) -> bool:
            if site.checker.all_ended(of_round):  # a slow worker may have got nothing: more for all of them
                of_round.extend(site.start(len(workers)))
            return all(map(_stages_killed, workers))

        eventually(all_have_killed, within=300, what="the kill of a stage of each")
        site.wait(of_round)
        for worker, fault in zip(workers, armed, strict=True):
            assert worker.ended is None, (fault, worker.log)
            total += _stages_killed(worker)
        site.fleet.end(*workers)
        started += of_round
    problems = site.checker.violations(started, ends={"completed"})
    record(PROMISE.format("a stage's process"), site.database, total, problems)
    assert problems == []


def _stages_killed(worker: Process) -> int:
    return sum("stage.retrying" in line and "SIGKILL" in line for line in worker.log.splitlines())


@databases("postgresql")
def test_an_undo_whose_process_is_killed_is_repeated(site: Site) -> None:
    count = trials(2, 12)
    done = site.start(count)
    clean = site.fleet.worker()
    site.wait(done)
    site.fleet.end(clean)
    for execution in done:
        commands.rollback(site.installation, execution)
    armed = site.fleet.worker("attempt.after_undo=kill@2")
    eventually(lambda: set(site.checker.statuses(done).values()) == {"rolled_back"}, what="the rollback of all")
    kills = sum("stage.undo_failed" in line and "SIGKILL" in line for line in armed.log.splitlines())
    assert kills > 0
    assert armed.ended is None
    problems = site.checker.violations(done, ends={"rolled_back"})
    record(PROMISE.format("an undo's process"), site.database, kills, problems)
    assert problems == []


def test_a_worker_killed_after_it_has_handed_over(site: Site) -> None:
    count = trials(1, 5)
    started: list[str] = []
    for number in range(count):
        go_on = site.folder / f"go-on-{number}"
        waiting = workload.start(site.installation, workload.waiting_pipeline(go_on), 1)
        of_round = [*waiting, *site.start(3)]
        worker = site.fleet.worker("leases.after_release=kill")
        eventually(lambda i=waiting[0]: executions.stages(site.installation, i)[0].status == "running")
        _end_handing_over(worker)
        site.gone(worker)
        go_on.touch()
        last = site.fleet.worker()
        site.wait(of_round)
        site.fleet.end(last)
        started += of_round
    problems = site.checker.violations(started, ends={"completed"})
    record(PROMISE.format("a worker that has handed over"), site.database, count, problems)
    assert problems == []


def _end_handing_over(worker: Process) -> None:
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert worker.killed, worker.log


@databases("postgresql")
def test_a_starter_killed_after_it_has_created_the_execution(site: Site) -> None:
    count = trials(1, 5)
    revision = pipelines.create(site.installation, workload.outputs_pipeline(site.folder))
    for number in range(count):
        armed = f"executions.after_create=kill@{number % 3 + 1}"
        starter = site.fleet.start(["-m", "tests.faults.starter", revision.id, "3", "--drive"], armed)
        starter.wait()
        assert starter.killed, starter.log
        site.gone(starter)
    with site.installation.database.read() as connection:
        started = list(connection.execute(sqlalchemy.select(table.c.id)).scalars())
    assert len(started) >= count
    site.fleet.worker()
    site.wait(started)
    problems = site.checker.violations(started, ends={"completed"})
    record(PROMISE.format("a process that starts executions"), site.database, count, problems)
    assert problems == []


def test_the_files_are_where_the_checker_looks(site: Site) -> None:
    """A checker that finds nothing to count would be content with anything."""
    (only,) = site.start(1)
    site.fleet.worker()
    site.wait([only])
    assert site.checker.violations([only], ends={"completed"}) == []
    (Path(site.folder) / "files" / f"{only}.csv").unlink()
    assert site.checker.violations([only]) == [f"{only}: the effect of file (completed) is missing: 0 rows"]
    assert site.checker.violations([only, "exec-x"])[0] == "exec-x: lost"
