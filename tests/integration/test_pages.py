"""Pages of executions: every order, both directions, each row once, whatever is filtered; the cost is constant."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from flexiroaster.config import Settings
from flexiroaster.errors import InputError
from flexiroaster.model.execution import LIVE, ExecutionStatus
from flexiroaster.model.paging import MAX_PAGE_SIZE, Page, Window
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionSort
from flexiroaster.service.installation import Installation, open_installation
from tests.history import BEGINNING, add_executions
from tests.statements import statements

COUNT = 150


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


@pytest.fixture
def rows(installation: Installation) -> list[dict[str, Any]]:
    return add_executions(installation, COUNT)


def walked(read: Callable[[Window], Page[Any]], size: int, *, backward: bool = False) -> list[Any]:
    """All pages one after the other, from one end to the other, in the order of the list."""
    found: list[Any] = []
    cursor = None
    while True:
        page = read(Window(last=size, before=cursor) if backward else Window(first=size, after=cursor))
        assert len(page.items) == len(page.cursors) <= size
        found = [*page.items, *found] if backward else [*found, *page.items]
        assert (page.has_next if backward else page.has_previous) == (cursor is not None)
        if not (page.has_previous if backward else page.has_next):
            return found
        cursor = page.cursors[0 if backward else -1]


def in_order(rows: list[dict[str, Any]], sort: ExecutionSort) -> list[str]:
    column, descending = sort.value.column.name, sort.value.descending
    valued = sorted((r for r in rows if r[column] is not None), key=lambda r: (r[column], r["id"]), reverse=descending)
    empty = sorted((r for r in rows if r[column] is None), key=lambda r: r["id"], reverse=descending)
    return [row["id"] for row in valued + empty]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("sort", ExecutionSort)
def test_every_order_in_both_directions(
    installation: Installation, rows: list[dict[str, Any]], sort: ExecutionSort, backward: bool
) -> None:
    def read(window: Window) -> Page[Any]:
        with statements(installation) as sent:
            page = executions.page(installation, sort=sort, window=window)
        assert len(sent) <= (2 if sort.value.column.nullable else 1)
        return page

    expected = in_order(rows, sort)
    for size in (7, COUNT - 1, COUNT, COUNT + 1):
        assert [row.id for row in walked(read, size, backward=backward)] == expected


LATER = BEGINNING + timedelta(seconds=20)
SOON = BEGINNING + timedelta(seconds=40)
FILTERS: list[tuple[str, ExecutionFilter, Callable[[dict[str, Any]], bool]]] = [
    ("one pipeline", ExecutionFilter(pipeline_ids=("p1",)), lambda r: r["pipeline_id"] == "p1"),
    ("pipelines", ExecutionFilter(pipeline_ids=("p1", "p3", "p1")), lambda r: r["pipeline_id"] in {"p1", "p3"}),
    ("no pipeline", ExecutionFilter(pipeline_ids=()), lambda r: False),
    ("status", ExecutionFilter(statuses=(ExecutionStatus.FAILED,)), lambda r: r["status"] == "failed"),
    ("live", ExecutionFilter(statuses=tuple(LIVE)), lambda r: r["status"] in LIVE),
    (
        "pipelines and states",
        ExecutionFilter(pipeline_ids=("p0", "p1"), statuses=(ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)),
        lambda r: r["pipeline_id"] in {"p0", "p1"} and r["status"] in {"failed", "cancelled"},
    ),
    ("more than lanes", ExecutionFilter(pipeline_ids=tuple(f"p{i}" for i in range(30))), lambda r: True),
    ("trigger", ExecutionFilter(triggered_by=("cli", "schedule")), lambda r: r["triggered_by"] != "api"),
    ("time", ExecutionFilter(created_after=LATER, created_before=SOON), lambda r: LATER <= r["created_at"] < SOON),
    (
        "risk",
        ExecutionFilter(minimal_risk=0.2, maximal_risk=0.5),
        lambda r: r["risk_score"] is not None and 0.2 <= r["risk_score"] <= 0.5,
    ),
    ("text in the name", ExecutionFilter(text="PIPELINE P2"), lambda r: r["pipeline_id"] == "p2"),
    ("text in the error", ExecutionFilter(text="100% of ROW_1"), lambda r: bool(r["error"]) and "row_1" in str(r)),
    ("text as it stands", ExecutionFilter(text="1__% of"), lambda r: False),
]


@pytest.mark.parametrize(("wanted", "holds"), [f[1:] for f in FILTERS], ids=[f[0] for f in FILTERS])
def test_filters(
    installation: Installation,
    rows: list[dict[str, Any]],
    wanted: ExecutionFilter,
    holds: Callable[[dict[str, Any]], bool],
) -> None:
    matching = [row for row in rows if holds(row)]
    for sort in (ExecutionSort.NEWEST, ExecutionSort.RISKIEST):
        found = walked(lambda window, sort=sort: executions.page(installation, wanted, sort, window), 6)
        assert [row.id for row in found] == in_order(matching, sort)
    assert executions.count(installation, wanted) == len(matching)


def test_a_text_is_found_in_an_id(installation: Installation, rows: list[dict[str, Any]]) -> None:
    found = executions.page(installation, ExecutionFilter(text=rows[3]["id"][5:].upper()))
    assert [row.id for row in found.items] == [rows[3]["id"]]


def test_a_row_is_whole_unless_told_otherwise(installation: Installation, rows: list[dict[str, Any]]) -> None:
    failed = ExecutionFilter(statuses=(ExecutionStatus.FAILED, ExecutionStatus.CANCELLED))
    by_id = {row["id"]: row for row in rows}
    for row in executions.page(installation, failed).items:
        stored = by_id[row.id]
        fields = ("variables", "error", "status", "created_at", "started_at", "risk_score", "triggered_by")
        assert [getattr(row, field) for field in fields] == [stored[field] for field in fields]
    with statements(installation) as sent:
        bare = executions.page(installation, failed, leave_out={"variables", "error"}).items
    assert {(str(row.variables), row.error) for row in bare} == {("{}", None)}
    assert "executions.variables" not in sent[0]
    assert "executions.error" not in sent[0]


def test_what_comes_and_goes_meanwhile_moves_nothing(installation: Installation) -> None:
    add_executions(installation, 20)
    first = executions.page(installation, window=Window(first=10))
    newer = add_executions(installation, 5, seed=2)
    second = executions.page(installation, window=Window(first=100, after=first.cursors[-1]))
    seen = [row.id for row in (*first.items, *second.items)]
    assert len(seen) == len(set(seen))
    assert len(set(seen) - {row["id"] for row in newer}) == 20


def test_cursors_are_checked(installation: Installation, rows: list[dict[str, Any]]) -> None:
    cursor = executions.page(installation, window=Window(first=1)).cursors[0]

    def refused(cursor: str, sort: ExecutionSort = ExecutionSort.NEWEST) -> str:
        with pytest.raises(InputError) as caught:
            executions.page(installation, sort=sort, window=Window(first=1, after=cursor))
        return caught.value.message

    told = "the cursor belongs to a different list or sort order than 'created_at'"
    assert refused(cursor, ExecutionSort.OLDEST) == told

    def made(*values: object) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(["created_at desc", *values])).decode()

    now = BEGINNING.isoformat()
    times = (5, "yesterday", None, "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00")
    for bad in ("", "!", "é", "bnVsbA", "e30", made(now, 1), made(now, "a\0b"), *(made(at, "x") for at in times)):
        assert refused(bad) in {"the cursor is invalid: pass one from an earlier page", f"{told[:-1]} desc'"}
    for bad in (made(now), made(now, "x", 1)):
        assert refused(bad) == f"{told[:-1]} desc'"
    assert len(executions.page(installation, window=Window(after=made("9999-01-01T00:00:00+00:00", "x"))).items) > 1


def test_windows_are_checked() -> None:
    for bad in ({"first": 1, "last": 1}, {"first": 1, "before": "x"}, {"after": "x", "before": "y"}):
        with pytest.raises(InputError, match="not both"):
            Window(**bad)
    for name in ("first", "last"):
        for number in (-1, MAX_PAGE_SIZE + 1):
            with pytest.raises(InputError, match=f"^{name}: must be from 0 to {MAX_PAGE_SIZE}, not {number}$"):
                Window(**{name: number})


def test_no_rows_are_a_page_too(installation: Installation, rows: list[dict[str, Any]]) -> None:
    page = executions.page(installation, window=Window(first=0))
    assert (page.items, page.has_next, page.has_previous) == ((), True, False)
