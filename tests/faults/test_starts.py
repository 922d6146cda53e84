"""Many starts at the same moment from four processes: one runs, or one after another, or they are the same one."""

from __future__ import annotations

import json
from typing import Any

from flexiroaster.service import pipelines
from tests.faults import workload
from tests.faults.conftest import Site
from tests.faults.tiers import databases, full, record
from tests.waiting import eventually

SHARES = (13, 13, 12, 12) if full() else (5, 5, 5, 5)
COUNT = sum(SHARES)
PROMISE = "Simultaneous starts from four processes"


def _start_together(site: Site, pipeline_id: str, *options: str) -> list[str]:
    """What each of the starts gave: an execution's id, or "refused"."""
    go = site.folder / f"go-{pipeline_id}"
    starters = [
        site.fleet.start(["-m", "tests.faults.starter", pipeline_id, str(share), "--go", str(go), *options])
        for share in SHARES
    ]
    for starter in starters:
        assert starter.said() == "ready"
    go.touch()
    return [outcome for starter in starters for outcome in json.loads(starter.answer())]


def _pipeline(site: Site, **fields: Any) -> str:
    return pipelines.create(site.installation, {**workload.outputs_pipeline(site.folder), **fields}).id


def test_exactly_one_runs(site: Site) -> None:
    outcomes = _start_together(site, _pipeline(site, concurrency=1))
    started = [outcome for outcome in outcomes if outcome != "refused"]
    site.fleet.worker()
    site.wait(started)
    problems = site.checker.violations(started, ends={"completed"})
    problems += [f"{len(started)} of {COUNT} starts were accepted"] if len(started) != 1 else []
    record(f"{PROMISE}, concurrency 1: exactly one runs", site.database, len(outcomes), problems)
    assert problems == []


def test_all_run_one_after_another_in_order(site: Site) -> None:
    outcomes = _start_together(site, _pipeline(site, concurrency=1, on_conflict="queue"))
    workers = [site.fleet.worker() for _ in range(2)]
    site.wait(outcomes)
    site.fleet.end(*workers)
    problems = site.checker.violations(outcomes, ends={"completed"})
    assert len(set(outcomes)) == COUNT
    rows = sorted((site.checker.execution(i) for i in outcomes), key=lambda row: row.started_at)
    problems += site.checker.overlaps(outcomes)
    in_line = [(row.created_at, row.id) for row in rows[1:]]  # the first one never stood in the line
    problems += ["they did not run in the order of their creation"] if in_line != sorted(in_line) else []
    record(
        f"{PROMISE}, queued: all run, one at a time, in order",
        site.database,
        len(outcomes),
        problems,
    )
    assert problems == []


def test_the_same_key_is_one_execution(site: Site) -> None:
    outcomes = _start_together(site, _pipeline(site, concurrency=None), "--key", "the-day")
    only = sorted(set(outcomes))
    site.fleet.worker()
    site.wait(only)
    problems = site.checker.violations(only, ends={"completed"})
    problems += [f"{len(only)} executions for one key"] if len(only) != 1 else []
    record(
        f"{PROMISE}, the same idempotency key: one execution",
        site.database,
        len(outcomes),
        problems,
    )
    assert problems == []


@databases("postgresql")
def test_slots_come_back_from_workers_that_were_killed(site: Site) -> None:
    """A queue moves on although the worker that held its slot is gone."""
    revision = pipelines.create(
        site.installation, {**workload.outputs_pipeline(site.folder), "concurrency": 1, "on_conflict": "queue"}
    )
    started = workload.start_again(site.installation, revision, 4)
    for point in ("driver.after_end", "journal.after_commit"):
        doomed = site.fleet.worker(f"{point}=kill@2")
        eventually(lambda p=doomed: p.ended is not None, what=f"the end at {point}")
        site.gone(doomed)
    site.fleet.worker()
    site.wait(started)
    problems = site.checker.violations(started, ends={"completed"})
    record("A slot held by a killed worker is released", site.database, 2, problems)
    assert problems == []
