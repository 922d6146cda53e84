"""The reader of one execution, over a made-up history: each event once for everybody, within bounds, read once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.model.event import Event, EventType, Level, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.executions.events import Batch
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.web import feeds as feed_module
from flexiroaster.web.feeds import EventFeed, StreamsClosedError

ROW = ExecutionRow(
    "e", "p", "P", 1, ExecutionStatus.RUNNING, {}, "test", 1, 0, None, utc_now(), None, None, None, 0, None
)  # fmt: skip


class History:
    """What would stand in the database."""

    def __init__(self, length: int = 0) -> None:
        self.events: list[Event] = []
        self.status = ExecutionStatus.RUNNING
        self.reads = 0
        self.feed = EventFeed(self.read)
        self.add(length)

    def add(self, count: int = 1, *, ended: bool = False) -> None:
        for _ in range(count):
            seq = len(self.events) + 1
            level = Level.ERROR if seq % 3 == 0 else Level.INFO
            self.events.append(Event("e", seq, EventType.STAGE_LOG, f"line {seq}", level=level))
        self.status = ExecutionStatus.COMPLETED if ended else self.status
        self.feed.hint()

    async def read(self, after: int, limit: int) -> Batch:
        self.reads += 1
        await asyncio.sleep(0)
        found = tuple(self.events[after : after + limit])
        await asyncio.sleep(0)
        return Batch(after, found, replace(ROW, last_seq=len(self.events), status=self.status))


async def follow(history: History, after: int = 0) -> AsyncIterator[list[int]]:
    """The numbers of one batch after another, as a subscriber gets them."""
    while True:
        kept = await history.feed.batch(after)
        after = kept.batch.last
        if kept.batch.events:
            yield [event.seq for event in kept.batch.events]
        if history.feed.ended(after):
            return
        await history.feed.news(after)


async def everything(history: History, after: int = 0, pause: int = 0) -> list[int]:
    found = []
    async for batch in follow(history, after):
        found += batch
        for _ in range(pause):
            await asyncio.sleep(0)
    return found


@given(
    steps=st.lists(st.integers(0, 30), max_size=20),
    begins=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=6),
)
def test_everybody_gets_each_event_once_and_in_order(steps: list[int], begins: list[tuple[int, int]]) -> None:
    """However the events come, wherever a subscriber begins and however slow it is."""

    async def run() -> None:
        history = History(40)
        tasks = [asyncio.create_task(everything(history, after, pause)) for after, pause in begins]
        for step in steps:
            history.add(step)
            for _ in range(step % 5):
                await asyncio.sleep(0)
        history.add(ended=True)
        found = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        for (after, _), numbers in zip(begins, found, strict=True):
            assert numbers == list(range(after + 1, len(history.events) + 1))

    asyncio.run(run())


def test_many_who_come_at_once_share_each_read() -> None:
    async def run() -> None:
        history = History(1000)
        history.add(ended=True)
        found = await asyncio.gather(*(everything(history) for _ in range(200)))
        assert all(len(numbers) == 1001 for numbers in found)
        assert history.reads <= 2 + 1001 // feed_module.PAGE

    asyncio.run(run())


def test_whoever_begins_in_between_joins_the_others() -> None:
    """From the next place on where others are: otherwise each would have the live events read for itself."""

    async def run() -> None:
        history = History(100)
        first = follow(history)
        assert len(await anext(first)) == 100
        history.add(7)
        assert await anext(first) == list(range(101, 108))
        history.add(3)
        late = follow(history, 50)
        assert await anext(late) == list(range(51, 101))  # and not on to 110, which nobody could share
        reads = history.reads
        assert await anext(late) == list(range(101, 108))
        assert history.reads == reads
        assert await asyncio.gather(anext(first), anext(late)) == [[108, 109, 110]] * 2
        assert history.reads == reads + 1

    asyncio.run(run())


def test_the_window_is_bounded_and_a_stalled_subscriber_reads_from_the_store() -> None:
    async def run() -> None:
        history = History(1)
        stalled, quick = follow(history), follow(history)
        assert await anext(stalled) == await anext(quick) == [1]
        for _ in range(60):
            history.add(50)
            assert len(await anext(quick)) == 50
        held = sum(len(kept.batch.events) for kept in history.feed._batches.values())
        assert held <= feed_module.WINDOW
        reads = history.reads
        history.add(ended=True)
        rest = [number async for batch in stalled for number in batch]
        assert rest == list(range(2, 3003))
        assert history.reads > reads + 2000 // feed_module.PAGE  # what is behind the window, a page at a time

    asyncio.run(run())


def test_payloads_are_the_same_objects_for_all() -> None:
    async def run() -> None:
        history = History(9)
        kept = await history.feed.batch(0)
        assert kept is await history.feed.batch(0)
        assert kept.payload(None, False) is kept.payload(None, False)
        assert kept.payload(None, True) is not kept.payload(None, False)
        assert [event.seq for event in kept.payload(Level.ERROR, True).events] == [3, 6, 9]
        assert kept.payload(Level.ERROR, True).cursor == kept.payload(None, True).cursor

    asyncio.run(run())


def test_news_that_come_while_reading_are_read_too() -> None:
    """The hint is heard before the read has ended, and says what that read has not seen."""

    async def run() -> None:
        history = History(1)
        reading = asyncio.create_task(history.feed.batch(1))
        for _ in range(2):
            await asyncio.sleep(0)  # its look at the events is over
        history.add(ended=True)
        kept = await reading
        await asyncio.wait_for(history.feed.news(kept.batch.last), 60)
        rest = await everything(history, kept.batch.last)
        assert [*(event.seq for event in kept.batch.events), *rest] == [2]

    asyncio.run(run())


def test_closed_it_ends_all_who_wait() -> None:
    async def run() -> None:
        history = History(1)
        stream = follow(history)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        history.feed.close()
        with pytest.raises(StreamsClosedError):
            await asyncio.wait_for(waiting, 60)

    asyncio.run(run())
