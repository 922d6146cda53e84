"""Live streams below the sockets, where a subscriber can be as slow as a test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from flexiroaster.config import Settings
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.web import feeds
from flexiroaster.web.feeds import ExecutionChange
from flexiroaster.web.streams import Streams
from tests.integration.program import DAILY

COMPLETED = ExecutionFilter(statuses=(ExecutionStatus.COMPLETED,))


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        pipelines.save(opened, {"id": "daily", **DAILY})
        yield opened


def run_one(installation: Installation) -> str:
    execution_id = executions.start(installation, "daily")
    executions.wait(installation, execution_id, 60)
    return execution_id


async def until(stream: AsyncIterator[ExecutionChange], wanted: set[str]) -> None:
    """Read until all of these have arrived."""
    async with asyncio.timeout(60):
        async for change in stream:
            wanted.discard(change.execution.id)
            if not wanted:
                return


def test_a_subscriber_behind_the_window_reads_from_the_database(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes executions that ended while it was away."""
    monkeypatch.setattr(feeds, "WINDOW", 1)

    async def run() -> None:
        streams = Streams(installation)
        slow, quick = await streams.executions(COMPLETED), await streams.executions(COMPLETED)
        both = asyncio.gather(anext(slow), anext(quick))
        begun = await asyncio.to_thread(run_one, installation)
        assert [change.execution.id for change in await both] == [begun] * 2
        ids = set()
        for _ in range(3):
            ids.add(await asyncio.to_thread(run_one, installation))
            await until(quick, {max(ids)})
        await until(slow, ids)
        for stream in (slow, quick):
            await stream.aclose()  # type: ignore[attr-defined]
        assert streams.feeds == 0
        streams.end()
        await asyncio.to_thread(streams.close)

    asyncio.run(run())
