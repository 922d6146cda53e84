"""How long executions are without a driver, with the settings that an installation has by default."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime

from flexiroaster.config import Settings
from flexiroaster.model.event import EventType
from flexiroaster.service.executions import executions
from tests.faults import workload
from tests.faults.conftest import Site
from tests.faults.processes import Process
from tests.faults.tiers import databases, full, record, trials
from tests.waiting import eventually

RECOVERY_SECONDS = 25.0
HAND_OVER_SECONDS = 1.0
"""What is promised, and asserted with all trials; the few of the short tier run on whatever is busy, and show that it
happens at all.
"""

LEASES = {
    name: Settings.model_fields[name].default if full() else seconds
    for name, seconds in (("execution_lock_ttl", 5.0), ("heartbeat_interval", 0.5))
}
"""Of the workers that are killed: the defaults, in the short tier such as run out sooner."""

EACH = 4
"""Executions of a worker with one process: as many as it claims at a time."""


@databases("postgresql")
def test_killed_workers_are_replaced_in_time(site: Site) -> None:
    """All of a batch are killed within five seconds, so that kills meet leases at every age."""
    times: list[float] = []
    for batch in range(trials(1, 4)):
        times += _recovery_times(site, f"batch-{batch}", trials(1, 5))
    late = [f"{seconds:.1f} s" for seconds in times if full() and seconds > RECOVERY_SECONDS]
    told = f"From SIGKILL to the next driver with default settings: at most {RECOVERY_SECONDS:g} s"
    record(told, site.database, len(times), late, worst_seconds=max(times))
    assert late == []


def _recovery_times(site: Site, name: str, count: int) -> list[float]:
    go_on = site.folder / name
    doomed = [site.fleet.worker(executor_workers=1, **LEASES) for _ in range(count)]
    for worker in doomed:
        worker.wait_until_working()
    started = workload.start(site.installation, workload.waiting_pipeline(go_on), EACH * count)
    owned = _owned(site, doomed, started)
    heir = site.fleet.worker(executor_workers=count * EACH, **(LEASES if full() else {})).wait_until_working()
    killed: dict[int, datetime] = {}
    for worker in doomed:
        killed[worker.pid] = datetime.now(UTC)
        worker.kill()
        worker.wait()
        time.sleep(5 / count if count > 1 else 0)  # the next kill meets a lease of another age
    ids = [execution for of_one in owned.values() for execution in of_one]
    eventually(lambda: all(str(heir.pid) in (site.checker.execution(i).lease_owner or "") for i in ids))
    go_on.touch()
    site.wait(started)
    site.fleet.end(heir, *doomed)
    assert site.checker.violations(started, ends={"completed"}) == []
    return [max(_taken_up(site, i, killed[pid]) for i in of_one) for pid, of_one in owned.items()]


def _owned(site: Site, workers: list[Process], started: list[str]) -> dict[int, list[str]]:
    """Who drives what, once everything is driven: process id -> executions."""

    def owners() -> dict[str, str] | None:
        found = {i: site.checker.execution(i).lease_owner for i in started}
        return found if all(found.values()) else None

    owned: dict[int, list[str]] = {}
    for execution, owner in eventually(owners, what="the claim of all").items():
        owned.setdefault(int(owner.split(":")[1]), []).append(execution)
    assert set(owned) == {worker.pid for worker in workers}
    eventually(lambda: all(executions.get(site.installation, i).status == "running" for i in started), what="the start")
    return owned


def _taken_up(site: Site, execution: str, killed: datetime) -> float:
    """Seconds from the kill to the first event that another driver wrote."""
    return min((e.at - killed).total_seconds() for e in site.checker.log_of(execution) if e.at > killed)


def test_a_worker_that_is_told_to_end_hands_over_within_a_second(site: Site) -> None:
    times = [_hand_over_time(site, f"go-on-{number}") for number in range(trials(1, 10))]
    late = [f"{seconds:.2f} s" for seconds in times if full() and seconds > HAND_OVER_SECONDS]
    told = f"From SIGTERM to running on another worker: at most {HAND_OVER_SECONDS:g} s"
    record(told, site.database, len(times), late, worst_seconds=max(times))
    assert late == []


def _hand_over_time(site: Site, name: str) -> float:
    go_on = site.folder / name
    worker = site.fleet.worker(executor_workers=3).wait_until_working()
    started = workload.start(site.installation, workload.waiting_pipeline(go_on), 3)
    _await_stages(site, started)
    heir = site.fleet.worker(executor_workers=3).wait_until_working()
    told = datetime.now(UTC)
    worker.signal(signal.SIGTERM)
    worker.wait()
    _await_stages(site, started)
    go_on.touch()
    site.wait(started)
    site.fleet.end(worker, heir)
    assert site.checker.violations(started, ends={"completed"}) == []
    return max(_begun_anew(site, i, told) for i in started)


def _await_stages(site: Site, started: list[str]) -> None:
    """Until the only stage of each runs."""

    def running() -> bool:
        return all(executions.stages(site.installation, i)[0].status == "running" for i in started)

    eventually(running, what="the start of all stages")


def _begun_anew(site: Site, execution: str, told: datetime) -> float:
    """Seconds until the other worker has its stage running."""
    log = site.checker.log_of(execution)
    released = [event.seq for event in log if event.type == EventType.EXECUTION_RELEASED]
    assert len(released) == 1
    return min((e.at - told).total_seconds() for e in log if e.type == EventType.STAGE_STARTED and e.seq > released[0])
