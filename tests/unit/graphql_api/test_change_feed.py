"""The reader of a list of executions, over made-up rows: every new state reaches every subscriber, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.web import feeds as changes_module
from flexiroaster.web.feeds import ChangeFeed, ExecutionChange

E = ExecutionStatus


class Rows:
    """What would stand in the database."""

    def __init__(self) -> None:
        self.rows: dict[str, ExecutionRow] = {}
        self.asked: list[frozenset[str] | None] = []
        self.feed = ChangeFeed(self.read)

    def put(self, id_: str, status: ExecutionStatus, *, told: bool = True) -> None:
        ended = utc_now() if status in TERMINAL else None
        self.rows[id_] = ExecutionRow(
            id_, "p", "P", 1, status, {}, "test", 1, 0, None, utc_now(), None, ended, None, 1, None
        )  # fmt: skip
        if told:
            self.feed.hint(id_)

    async def read(self, ids: frozenset[str] | None, at: datetime | None) -> Sequence[ExecutionRow]:
        self.asked.append(ids)
        await asyncio.sleep(0)
        if ids is not None:
            return [self.rows[id_] for id_ in sorted(ids) if id_ in self.rows]
        rows = self.rows.values()
        return [r for r in rows if r.completed_at is None or (at is not None and r.completed_at >= at)]


def states(found: Sequence[ExecutionChange] | None) -> list[tuple[str, str]]:
    assert found is not None
    return [(change.execution.id, change.execution.status.value) for change in found]


def soon(awaitable: Any) -> Any:
    return asyncio.wait_for(awaitable, 60)


def test_only_new_states_are_told_and_the_last_one_counts() -> None:
    async def run() -> None:
        rows = Rows()
        rows.put("a", E.PENDING, told=False)
        assert states(await rows.feed.begin(None)) == [("a", "pending")]
        rows.put("a", E.PENDING)  # an event that changes nothing of its state
        rows.put("b", E.RUNNING)
        rows.put("b", E.COMPLETED)
        assert states(await soon(rows.feed.changes_after(0))) == [("b", "completed")]
        assert rows.asked == [None, frozenset({"a", "b"})]  # those that were told of, read once

    asyncio.run(run())


def test_each_subscriber_gets_all_behind_its_place() -> None:
    async def run() -> None:
        rows = Rows()
        await rows.feed.begin(None)
        waiting = [asyncio.create_task(rows.feed.changes_after(0)) for _ in range(5)]
        rows.put("a", E.RUNNING)
        first = await soon(asyncio.gather(*waiting))
        assert [states(found) for found in first] == [[("a", "running")]] * 5
        assert all(found[0] is first[0][0] for found in first)  # the same object: it is encoded once
        rows.put("a", E.FAILED)
        assert states(await soon(rows.feed.changes_after(1))) == [("a", "failed")]
        assert states(await soon(rows.feed.changes_after(0))) == [("a", "running"), ("a", "failed")]

    asyncio.run(run())


def test_where_nobody_says_which_all_are_looked_at() -> None:
    """Ends too, although what has ended is not among those that live."""

    async def run() -> None:
        rows = Rows()
        rows.put("a", E.RUNNING, told=False)
        await rows.feed.begin(None)
        rows.put("a", E.COMPLETED, told=False)
        rows.put("b", E.RUNNING, told=False)
        rows.feed.hint()
        assert states(await soon(rows.feed.changes_after(0))) == [("a", "completed"), ("b", "running")]

    asyncio.run(run())


def test_a_later_subscriber_takes_nothing_from_the_others() -> None:
    """What it reads at its beginning is still news to those who were there before."""

    async def run() -> None:
        rows = Rows()
        rows.put("a", E.PENDING, told=False)
        await rows.feed.begin(None)
        rows.put("a", E.RUNNING)
        assert states(await rows.feed.begin(None)) == [("a", "running")]
        assert states(await soon(rows.feed.changes_after(0))) == [("a", "running")]

    asyncio.run(run())


def test_a_read_that_fails_is_made_up_for() -> None:
    async def run() -> None:
        rows = Rows()
        await rows.feed.begin(None)
        read, rows.feed._read = rows.feed._read, _fails
        rows.put("a", E.RUNNING)
        assert isinstance((await asyncio.gather(soon(rows.feed.changes_after(0)), return_exceptions=True))[0], OSError)
        rows.feed._read = read
        assert states(await soon(rows.feed.changes_after(0))) == [("a", "running")]

    asyncio.run(run())


async def _fails(*_: object) -> Sequence[ExecutionRow]:
    raise OSError("away")


def test_the_window_is_bounded_and_who_is_behind_it_is_told_so() -> None:
    async def run() -> None:
        rows = Rows()
        await rows.feed.begin(None)
        for number in range(3):
            for id_ in range(changes_module.WINDOW // 2):
                rows.put(f"{number} {id_}", E.RUNNING)
            await soon(rows.feed.changes_after(rows.feed.number))
        assert len(rows.feed._window) == changes_module.WINDOW
        assert await rows.feed.changes_after(0) is None
        assert len(await rows.feed.changes_after(changes_module.WINDOW) or []) == changes_module.WINDOW // 2

    asyncio.run(run())
