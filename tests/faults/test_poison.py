"""A stage that takes its worker down three times is failed for good, and others go on."""

from __future__ import annotations

from tests.faults import workload
from tests.faults.conftest import Site
from tests.faults.tiers import databases, record, trials
from tests.waiting import eventually

DEATHS = 3


@databases("postgresql")
def test_three_times_and_no_more(site: Site) -> None:
    problems: list[str] = []
    for number in range(trials(1, 5)):
        problems += _poisoned(site, number)
    record(
        "A stage that kills its worker: fails after three claims, other executions continue",
        site.database,
        trials(1, 5),
        problems,
    )
    assert problems == []


def _poisoned(site: Site, number: int) -> list[str]:
    mark = site.folder / f"deaths-{number}"
    body = {"name": "Poison", "stages": [workload.python("poison", "kills_its_worker", mark=str(mark))]}
    (poison,) = workload.start(site.installation, body, 1)
    others = site.start(6)
    worker = site.fleet.worker()

    def all_ended() -> bool:
        nonlocal worker
        if worker.ended is not None:  # what a supervisor does
            site.gone(worker)
            worker = site.fleet.worker()
        return site.checker.all_ended([poison, *others])

    eventually(all_ended, within=300, what="the end of all")
    site.fleet.end(worker)
    problems = site.checker.violations([poison], ends={"failed"}) + site.checker.violations(others, ends={"completed"})
    deaths = len(mark.read_text().splitlines())
    if deaths != DEATHS:
        problems.append(f"{poison}: took {deaths} workers down, not {DEATHS}")
    error = site.checker.execution(poison).error or {}
    if (error.get("message"), error.get("class")) != ("it lost its worker 3 times without progress", "crash"):
        problems.append(f"{poison}: its error is {error}")
    return problems
