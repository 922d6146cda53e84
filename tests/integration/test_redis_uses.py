"""What is kept in Redis: locks, heartbeats; and what is answered without it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from flexiroaster.config import Settings, load_settings
from flexiroaster.coordination.redis import heartbeats
from flexiroaster.coordination.redis.heartbeats import Heartbeats
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.coordination.redis.locks import ExecutionLocks
from flexiroaster.coordination.redis.server import installation_id
from flexiroaster.model.event import utc_now
from flexiroaster.store.database import Database, open_database
from tests.proxy import Proxy, running_proxy
from tests.waiting import PATIENT, eventually

TTL = 900.0
"""Seconds; of what is put with it, a minute may have passed when the rest is asked for, on a busy machine."""

ALL_OF_IT = range(840_000, 900_001)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """Somebody else's connection to the server."""
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


def test_a_lock_has_one_holder(link: RedisLink, client: redis.Redis) -> None:
    mine, other = ExecutionLocks(link, "host:1:aa", TTL), ExecutionLocks(link, "host:2:bb", TTL)
    assert [mine.acquire("x"), other.acquire("x"), mine.acquire("x")] == [True, False, True]
    value = client.get("flexiroaster:lock:x")
    assert isinstance(value, bytes)
    owner, _, token = value.decode().rpartition(":")
    assert (owner, len(token)) == ("host:1:aa", 16)
    assert client.pttl("flexiroaster:lock:x") in ALL_OF_IT
    other.release(["x"])
    assert other.acquire("x") is False
    mine.release(["x", "never held"])
    assert other.acquire("x") is True


def test_of_many_that_try_at_once_one_gets_it(link: RedisLink) -> None:
    with ThreadPoolExecutor(20) as threads:
        workers = [ExecutionLocks(link, f"host:{n}", TTL) for n in range(20)]
        assert sorted(str(w) for w in threads.map(lambda w: w.acquire("x"), workers)) == ["False"] * 19 + ["True"]


def test_locks_are_extended_together_and_set_again_after_a_flush(link: RedisLink, client: redis.Redis) -> None:
    mine, other = ExecutionLocks(link, "mine", TTL), ExecutionLocks(link, "other", TTL)
    for name in ("a", "b"):
        mine.acquire(name)
        client.pexpire(f"flexiroaster:lock:{name}", 300_000)
    other.acquire("c")
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert mine.extend(["a", "b", "c"]) == {"a", "b"}
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 2  # the first did not know the script
    assert client.pttl("flexiroaster:lock:a") in ALL_OF_IT
    assert str(client.get("flexiroaster:lock:c")).startswith("b'other:")
    client.flushall()
    client.script_flush()
    assert mine.extend(["a", "c"]) == {"a", "c"}
    assert other.acquire("a") is False
    assert mine.extend([]) == set()


def test_without_redis_the_database_is_asked(proxy: Proxy, link: RedisLink) -> None:
    proxy.cut()
    locks, beats = ExecutionLocks(link, "mine", TTL), Heartbeats(link, "mine", TTL)
    assert (locks.acquire("x"), locks.extend(["x"])) == (None, None)
    assert (beats.beat(), beats.workers()) == (False, None)
    locks.release(["x"])
    beats.remove()
    proxy.mend()
    eventually(lambda: link.available)
    assert (locks.acquire("x"), beats.beat()) == (True, True)


def test_an_answer_that_got_lost_is_made_good(proxy: Proxy, client: redis.Redis) -> None:
    url = f"redis://127.0.0.1:{proxy.port}/0"
    with closing(RedisLink(load_settings(redis_url=url, redis_socket_timeout=1.0), "ns")) as link:
        _lose_an_answer(proxy, link, client)


def _lose_an_answer(proxy: Proxy, link: RedisLink, client: redis.Redis) -> None:
    locks = ExecutionLocks(link, "mine", TTL)
    eventually(lambda: locks.acquire("warm up"))
    proxy.freeze()
    assert locks.acquire("x") is None
    proxy.thaw()  # now the request arrives, and nobody waits for the answer
    eventually(lambda: client.get("flexiroaster:lock:x"))
    assert eventually(lambda: locks.acquire("x")) is True


def test_workers_say_who_where_and_since(link: RedisLink, client: redis.Redis) -> None:
    before = utc_now()
    mine, other = Heartbeats(link, "b:2", TTL), Heartbeats(link, "a:1", TTL)
    assert mine.workers() == []
    assert (mine.beat(["x", "y"]), other.beat()) == (True, True)
    workers = mine.workers()
    assert workers is not None
    assert [(w.owner, w.host, w.pid, w.executions) for w in workers] == [
        ("a:1", socket.gethostname(), os.getpid(), ()),
        ("b:2", socket.gethostname(), os.getpid(), ("x", "y")),
    ]
    assert all(before <= w.since <= w.at <= utc_now() for w in workers)
    assert client.pttl("flexiroaster:worker:a:1") in ALL_OF_IT
    client.delete("flexiroaster:worker:a:1")  # as after its time
    assert [w.owner for w in mine.workers() or []] == ["b:2"]
    client.set("flexiroaster:worker:a:1", b'{"of": "another version"}')
    assert [w.owner for w in mine.workers() or []] == ["b:2"]
    client.zadd("flexiroaster:ns:workers", {"long gone": 1})
    mine.beat()
    assert client.zrange("flexiroaster:ns:workers", 0, -1) == [b"a:1", b"b:2"]
    mine.remove()
    assert mine.workers() == []


def test_workers_of_another_installation_are_not_ours(link: RedisLink, redis_url: str) -> None:
    other = RedisLink(load_settings(redis_url=redis_url), "other")
    Heartbeats(other, "theirs", TTL).beat()
    assert Heartbeats(link, "mine", TTL).workers() == []
    other.close()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings)
    yield opened
    opened.close()


def test_health_asks_both(proxy: Proxy, link: RedisLink, database: Database) -> None:
    found = heartbeats.check(database, link)
    assert (found.healthy, found.redis.available, found.redis.fallback_mode) == (True, True, False)
    assert found.database.latency_ms is not None
    assert found.redis.latency_ms is not None
    proxy.cut()
    found = heartbeats.check(database, link)
    assert (found.healthy, found.redis.available, found.redis.fallback_mode) == (True, False, True)
    assert found.redis.latency_ms is None


def test_a_database_that_does_not_answer_is_not_healthy(link: RedisLink) -> None:
    gone = open_database(load_settings(database_url="postgresql://bob:hunter2@127.0.0.1:1/x"))
    found = heartbeats.check(gone, link)
    assert (found.healthy, found.database.latency_ms) == (False, None)
    assert found.database.error is not None
    assert "refused" in found.database.error
    assert "hunter2" not in found.database.error
    gone.close()


def test_an_installation_is_its_database(settings: Settings, database: Database, tmp_path: Path) -> None:
    again = open_database(settings)
    other = open_database(load_settings(database_url=f"sqlite:///{tmp_path / 'other.db'}"))
    memory = open_database(load_settings(database_url="sqlite:///:memory:"))
    ids = [installation_id(one) for one in (database, again, other, memory)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert {len(found) for found in ids} == {12}
    for one in (again, other, memory):
        one.close()


def test_a_file_that_takes_the_place_of_a_deleted_one_is_another_installation(tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    ids = set()
    for _ in range(3):
        database = open_database(load_settings(database_url=f"sqlite:///{path}"))
        ids.add(installation_id(database))
        database.close()
        path.unlink()
    assert len(ids) == 3
