"""Reads that Redis saves the database: cached states and definitions, and the check for duplicate starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import urlsplit

import pytest
import redis

from flexiroaster.config import load_settings
from flexiroaster.coordination.redis.cache import DefinitionCache, StateCache
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.coordination.redis.locks import PipelineSlots
from flexiroaster.errors import NotFoundError
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import Pipeline, parse_pipeline
from flexiroaster.store.executions import ExecutionRow
from tests.proxy import Proxy, running_proxy
from tests.waiting import PATIENT, eventually

AT = datetime(2026, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)
ROW = ExecutionRow(
    id="x",
    pipeline_id="daily",
    pipeline_name="Daily é",
    revision=2,
    status=ExecutionStatus.RUNNING,
    variables={"n": 2**60, "half": 0.5, "deep": [{"none": None, "text": "\u2028"}]},
    triggered_by="api",
    total_stages=3,
    completed_stages=1,
    risk_score=0.25,
    created_at=AT,
    started_at=AT,
    completed_at=None,
    error={"message": "no"},
    last_seq=5,
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A foreign connection to the server."""
    with redis.Redis.from_url(redis_url) as other:
        yield other


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with running_proxy("127.0.0.1", urlsplit(redis_url).port or 0) as running:
        yield running


@pytest.fixture
def link(proxy: Proxy) -> Iterator[RedisLink]:
    url = f"redis://127.0.0.1:{proxy.port}/0"
    opened = RedisLink(load_settings(redis_url=url, **PATIENT), "ns")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process knows is not forgotten while the machine is busy with something else."""
    monkeypatch.setattr("flexiroaster.coordination.redis.cache.KNOWN_SECONDS", 3600.0)


def settle(link: RedisLink) -> None:
    """Wait for all deferred work."""
    done: list[bool] = []
    link.enqueue(lambda _client: done.append(True))
    eventually(lambda: done)


def state_cache(link: RedisLink, seconds: float = 3600.0) -> StateCache:
    return StateCache(link, seconds)


class Database:
    """The current row, and the number of reads."""

    def __init__(self, row: ExecutionRow = ROW) -> None:
        self.row = row
        self.reads = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def load(self) -> ExecutionRow:
        self.reads += 1
        read = self.row
        self.meanwhile()
        return read

    def move(self, seq: int) -> None:
        self.row = replace(self.row, last_seq=seq)


def test_a_state_is_read_once_by_all_processes_and_is_the_same(link: RedisLink) -> None:
    database = Database()
    mine, theirs = state_cache(link), state_cache(link)
    assert [cache.read("x", database.load) for cache in (mine, theirs, mine)] == [ROW] * 3
    assert database.reads == 1
    assert repr(mine.read("x", database.load)) == repr(ROW)


def test_a_writer_reads_its_own_write_and_invalidates_the_others(link: RedisLink) -> None:
    database = Database()
    writer, reader = state_cache(link), state_cache(link)
    reader.read("x", database.load)
    database.move(6)
    writer.invalidate_before("x", 6)
    assert writer.read("x", database.load).last_seq == 6, "at once, whether Redis has heard of it or not"
    database.move(7)
    writer.invalidate_before("x", 7)
    writer.close()
    assert reader.read("x", database.load).last_seq == 7


def test_a_process_that_showed_an_event_gets_no_older_state(link: RedisLink) -> None:
    database = Database()
    mine, theirs = state_cache(link), state_cache(link)
    theirs.read("x", database.load)
    database.move(6)
    assert theirs.read("x", database.load).last_seq == 5, "it was not told"
    mine.record_seen("x", 6)
    mine.record_seen("x", 3)
    assert mine.read("x", database.load).last_seq == 6
    assert theirs.read("x", database.load).last_seq == 6, "what is newer replaces what is older"


def test_a_read_during_an_outage_is_not_followed_by_older_state(link: RedisLink, proxy: Proxy) -> None:
    database = Database()
    cache = state_cache(link)
    cache.read("x", database.load)
    proxy.cut()
    database.move(6)
    assert cache.read("x", database.load).last_seq == 6
    proxy.mend()
    eventually(lambda: link.available)
    assert cache.read("x", database.load).last_seq == 6


def test_a_slow_reader_does_not_bring_old_state_back(link: RedisLink) -> None:
    database = Database()
    slow, writer = state_cache(link), state_cache(link)

    def write() -> None:
        database.move(6)
        writer.invalidate_before("x", 6)
        writer.close()

    database.meanwhile = write
    assert slow.read("x", database.load).last_seq == 5
    database.meanwhile = lambda: None
    assert slow.read("x", database.load).last_seq == 6


def test_a_state_is_served_for_its_time_from_the_question(link: RedisLink) -> None:
    database = Database()
    cache = state_cache(link, seconds=0.05)
    cache.read("x", database.load)
    database.move(6)
    eventually(lambda: cache.read("x", database.load).last_seq == 6)
    slow, cache = Database(replace(ROW, id="y")), state_cache(link, seconds=0.0)
    cache.read("y", slow.load)
    cache.read("y", slow.load)
    assert slow.reads == 2, "its time was over before it could be put"


@pytest.mark.parametrize("value", [b"not JSON", b"[1]", b'{"id": "x"}'])
def test_a_state_of_another_version_is_ignored(link: RedisLink, client: redis.Redis, value: bytes) -> None:
    database = Database()
    cache = state_cache(link)
    cache.read("x", database.load)
    client.hset("flexiroaster:execution:x", "value", value)
    assert cache.read("x", database.load) == ROW
    assert database.reads == 2


def test_missing_and_large_states_are_not_cached(link: RedisLink, client: redis.Redis) -> None:
    def missing() -> ExecutionRow:
        raise NotFoundError("gone")

    cache = state_cache(link)
    with pytest.raises(NotFoundError):
        cache.read("x", missing)
    large = Database(replace(ROW, variables={"x": "x" * 1_000_000}))
    assert cache.read("x", large.load) is large.row
    assert client.keys("flexiroaster:execution:*") == []


def test_states_without_redis_and_after_a_flush(link: RedisLink, proxy: Proxy, client: redis.Redis) -> None:
    database = Database()
    cache = state_cache(link)
    cache.read("x", database.load)
    proxy.cut()
    database.move(6)
    cache.invalidate_before("x", 6)
    assert cache.read("x", database.load).last_seq == 6
    proxy.mend()
    eventually(lambda: link.available)
    assert cache.read("x", database.load).last_seq == 6, "Redis was not told, but this process knows"
    client.flushall()
    client.script_flush()
    database.move(7)
    assert cache.read("x", database.load).last_seq == 7


def test_known_states_are_forgotten_in_time(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = state_cache(link)
    for number in range(100):
        cache.record_seen(f"x{number}", number)
    later = monotonic() + 3601.0
    monkeypatch.setattr("flexiroaster.coordination.redis.cache.monotonic", lambda: later)
    cache.record_seen("last", 1)
    assert list(cache._known) == ["last"]


PIPELINE = parse_pipeline(
    {
        "id": "daily",
        "name": "Daily",
        "variables": {"n": 2**60},
        "stages": [{"id": "a", "type": "input", "config": {"source": "api", "data": [{"x": 1.5}]}, "timeout": 3}],
    }
)


def test_a_definition_is_read_once_a_process_and_shared_with_those_that_show_it(link: RedisLink) -> None:
    reads: list[int] = []

    def load() -> Pipeline:
        reads.append(1)
        return PIPELINE

    first, second = DefinitionCache(link), DefinitionCache(link)
    assert [first.get_trusted("daily", 1, load), first.get_for_display("daily", 1, load)] == [PIPELINE] * 2
    settle(link)
    assert len(reads) == 1
    assert second.get_for_display("daily", 1, load) == PIPELINE
    assert len(reads) == 1
    assert second.get_trusted("daily", 1, load) == PIPELINE
    assert len(reads) == 2, "what is run comes from the database"
    assert first.get_for_display("daily", 2, load) == PIPELINE
    assert len(reads) == 3


def test_definitions_of_others_of_another_version_or_without_redis(
    link: RedisLink, proxy: Proxy, client: redis.Redis, redis_url: str
) -> None:
    other = RedisLink(load_settings(redis_url=redis_url), "other")
    DefinitionCache(other).get_trusted("daily", 1, lambda: PIPELINE.model_copy(update={"name": "theirs"}))
    settle(other)
    other.close()
    assert DefinitionCache(link).get_for_display("daily", 1, lambda: PIPELINE) == PIPELINE
    client.set("flexiroaster:ns:definition:daily:2", b"not JSON")
    client.set("flexiroaster:ns:definition:daily:3", b"[1]")
    assert [DefinitionCache(link).get_for_display("daily", n, lambda: PIPELINE) for n in (2, 3)] == [PIPELINE] * 2
    proxy.cut()
    assert DefinitionCache(link).get_for_display("daily", 4, lambda: PIPELINE) == PIPELINE


def test_the_definitions_in_a_process_are_bounded(link: RedisLink) -> None:
    cache = DefinitionCache(link, limit=2)
    reads: list[int] = []

    def read(revision: int) -> None:
        cache.get_trusted("daily", revision, lambda: (reads.append(revision), PIPELINE)[1])

    for revision in (1, 2, 1, 3, 1, 2):
        read(revision)
    assert reads == [1, 2, 3, 2]


def test_slots_are_a_hint_about_duplicates(link: RedisLink, client: redis.Redis) -> None:
    slots, others = PipelineSlots(link, 900.0), PipelineSlots(link, 900.0)
    assert [slots.reserve("p", name, 2) for name in ("a", "b", "c", "a")] == [True, True, False, True]
    assert others.reserve("q", "c", 1) is True
    others.free("a")
    slots.free("a")
    settle(link)
    assert client.zrange("flexiroaster:ns:slots:p", 0, -1) == [b"b"]
    slots.set_holders("p", ["d", "e"])
    slots.set_holders("p", [])
    assert client.zrange("flexiroaster:ns:slots:p", 0, -1) == [b"d", b"e"]
    assert slots.reserve("p", "f", 2) is False
    assert 840_000 < client.pttl("flexiroaster:ns:slots:p") <= 900_000
    client.zadd("flexiroaster:ns:slots:p", {"d": 1})  # its time has passed
    assert slots.reserve("p", "f", 2) is True


def test_slots_without_redis(link: RedisLink, proxy: Proxy) -> None:
    slots = PipelineSlots(link, 900.0)
    proxy.cut()
    assert slots.reserve("p", "a", 1) is None
    slots.set_holders("p", ["a"])
    slots.free("a")
    proxy.mend()
    eventually(lambda: link.available)
    assert slots.reserve("p", "a", 1) is True
