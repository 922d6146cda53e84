"""Pages of a long list: the first one and the thousandth of 100,000 executions, in every order, filtered and not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import pytest
from sqlalchemy import text

from flexiroaster.config import Settings
from flexiroaster.model.execution import LIVE, ExecutionStatus
from flexiroaster.model.paging import Window
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.installation import Installation, open_installation
from tests.history import add_executions

COUNT, SIZE, DEEP = 100_000, 50, 1000

WANTED = {
    **{f"by {sort.name.lower()}": (ExecutionFilter(), sort) for sort in ExecutionSort},
    "one pipeline": (ExecutionFilter(pipeline_ids=("p1",)), ExecutionSort.NEWEST),
    "two states": (
        ExecutionFilter(statuses=(ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)),
        ExecutionSort.NEWEST,
    ),
    "live": (ExecutionFilter(statuses=tuple(LIVE)), ExecutionSort.NEWEST),
}


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        add_executions(opened, COUNT, pipelines=20)
        if not opened.database.is_sqlite:
            with opened.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE executions"))
        yield opened


def took(call: Callable[[], object], rounds: int = 60) -> float:
    """The median of milliseconds."""
    times = []
    for _ in range(rounds):
        began = perf_counter()
        call()
        times.append(1000 * (perf_counter() - began))
    return median(times)


def test_first_page_and_thousandth(benchmark, installation: Installation) -> None:
    figures = {}
    for name, (wanted, sort) in WANTED.items():

        def read(cursor: str | None, wanted: ExecutionFilter = wanted, sort: ExecutionSort = sort) -> object:
            return executions.page(installation, wanted, sort, Window(first=SIZE, after=cursor), {"variables", "error"})

        cursor, pages = None, 0
        while pages < DEEP - 1:
            page = executions.page(installation, wanted, sort, Window(first=10 * SIZE, after=cursor), {"variables"})
            pages += 10
            if not page.has_next:
                break
            cursor = page.cursors[-1]
        figures[name] = (took(lambda: read(None)), took(lambda at=cursor: read(at)), pages)
    for name, (first, deep, pages) in figures.items():
        print(f"{name:20} first {first:6.2f} ms, behind {pages:5} pages {deep:6.2f} ms, ratio {deep / first:.2f}")
    benchmark.extra_info["pages"] = figures
    benchmark.pedantic(lambda: executions.page(installation, window=Window(first=SIZE)), rounds=50, warmup_rounds=5)
