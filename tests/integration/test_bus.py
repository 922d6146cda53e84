"""The bus between processes: over Redis, PostgreSQL and SQLite, and switching between them while in use."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from flexiroaster.config import load_settings
from flexiroaster.coordination import bus as shared
from flexiroaster.coordination.bus import Bus, LocalBus, Message, SharedBus, open_bus
from flexiroaster.coordination.bus import database as sqlite_bus
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.coordination.redis.server import installation_id
from flexiroaster.store.database import open_database
from tests.proxy import Proxy, running_proxy
from tests.waiting import PATIENT, eventually, open_descriptors


class Process:
    """One process: a link, a bus, and the messages it received."""

    def __init__(self, stack: ExitStack, database_url: str, redis_url: str) -> None:
        settings = load_settings(database_url=database_url, redis_url=redis_url, **PATIENT)
        database = open_database(settings)
        stack.callback(database.close)
        self.link = RedisLink(settings, installation_id(database))
        stack.callback(self.link.close)
        self.bus: Bus = open_bus(database, self.link)
        stack.callback(self.bus.close)
        self.heard: list[Message] = []
        self.brought_by: set[str] = set()  # the threads that called back

    def listen(self, *topics: str) -> Process:
        """Listen, and wait until messages arrive through both Redis and the database."""
        for topic in topics:
            self.bus.subscribe(topic, self._hear)
        eventually(lambda: self.hears_redis or not self.link.configured)
        eventually(lambda: self.brought_by & {"flexiroaster-bus-postgres", "flexiroaster-bus-sqlite"})
        return self

    def _hear(self, message: Message) -> None:
        self.brought_by.add(threading.current_thread().name)
        self.heard.append(message)

    @property
    def hears_redis(self) -> bool:
        bus = self.bus
        assert isinstance(bus, SharedBus)
        return bus._redis is not None and bus._redis.is_listening

    @property
    def told(self) -> list[tuple[str, object]]:
        """The messages, without the gaps."""
        return [(m.topic, m.payload.get("seq")) for m in list(self.heard) if not m.gap]

    @property
    def gaps(self) -> int:
        return sum(m.gap for m in list(self.heard))


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """A factory of processes."""
    with ExitStack() as stack:
        yield lambda database_url, redis_url="": Process(stack, database_url, redis_url)


@pytest.fixture
def proxies(redis_url: str) -> Iterator[tuple[Proxy, Proxy]]:
    """Two proxies to Redis."""
    port = urlsplit(redis_url).port or 0
    with running_proxy("127.0.0.1", port) as one, running_proxy("127.0.0.1", port) as two:
        yield one, two


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def test_a_listener_receives_the_topics_below_its_own(caplog: pytest.LogCaptureFixture) -> None:
    bus = LocalBus()
    heard: list[tuple[str, Message]] = []
    ends = [bus.subscribe(topic, lambda m, t=topic: heard.append((t, m))) for topic in ("events", "events:x", "even")]  # type: ignore[misc] # mypy cannot infer a lambda with a default
    bus.subscribe("events:x", lambda _message: 1 / 0)
    bus.publish("events:x", {"seq": 1})
    bus.publish("events:y")
    assert heard == [
        ("events:x", Message("events:x", {"seq": 1})),
        ("events", Message("events:x", {"seq": 1})),
        ("events", Message("events:y", {})),
    ]
    assert [record.getMessage() for record in caplog.records] == ["a listener for events:x failed"]
    for end in ends:
        end()
        end()
    heard.clear()
    bus.publish("events:x")
    bus.close()
    assert (heard, bus.transport) == ([], "local")


def test_one_callback_twice_is_two_listeners() -> None:
    bus = LocalBus()
    heard: list[Message] = []
    end = bus.subscribe("work", heard.append)
    bus.subscribe("work", heard.append)
    bus.publish("work")
    end()
    bus.publish("work")
    assert len(heard) == 3


def test_only_hints_may_travel() -> None:
    with pytest.raises(ValueError, match="a message on 'events:x' exceeds 1000 bytes: send ids, not the data itself"):
        LocalBus().publish("events:x", {"data": "x" * 1000})


def test_a_slow_listener_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("flexiroaster.coordination.bus.base.SLOW_SECONDS", -1.0)
    bus = LocalBus()
    bus.subscribe("work", lambda _message: None)
    bus.publish("work")
    bus.publish("work")
    assert [record.getMessage() for record in caplog.records] == [
        "a listener for work took 0.0 s and delayed all others"
    ]


def test_a_database_in_memory_has_no_other_processes() -> None:
    database = open_database(load_settings(database_url="sqlite:///:memory:"))
    assert isinstance(open_bus(database, RedisLink(load_settings(redis_url=""))), LocalBus)
    database.close()


def test_through_redis(database_url: str, redis_url: str, start: Start) -> None:
    one, two = (
        start(database_url, redis_url).listen("work", "events:x"),
        start(database_url, redis_url).listen("events"),
    )
    assert one.bus.transport == "redis"
    one.bus.publish("events:x", {"seq": 1})
    assert one.told == [("events:x", 1)]  # at once, without a server
    eventually(lambda: two.told == [("events:x", 1)])
    two.bus.publish("events:y", {"seq": 1})
    two.bus.publish("work")
    eventually(lambda: one.told == [("events:x", 1), ("work", None)])
    assert two.told == [("events:x", 1), ("events:y", 1)]


def test_a_topic_subscribed_later_is_received_too(database_url: str, redis_url: str, start: Start) -> None:
    one, two = start(database_url, redis_url), start(database_url, redis_url).listen("work")
    gaps = two.gaps
    two.bus.subscribe("commands", two.heard.append)
    eventually(lambda: two.gaps >= gaps + 2)  # each listener is told to read
    one.bus.publish("commands:x", {"seq": 1})
    eventually(lambda: two.told == [("commands:x", 1)])


def test_through_postgresql(postgres_url: str, start: Start) -> None:
    one, two = start(postgres_url).listen("work"), start(postgres_url).listen("events", "work")
    assert one.bus.transport == "postgresql"
    for seq in range(300):  # more than one notification holds
        one.bus.publish(f"events:{'x' * 100}", {"seq": seq})
    eventually(lambda: len(two.told) >= 300)
    assert two.told == [(f"events:{'x' * 100}", seq) for seq in range(300)]
    two.bus.publish("work")
    eventually(lambda: one.told == [("work", None)])


def test_a_listener_reconnects_after_its_connection_dies(
    postgres_url: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = start(postgres_url), start(postgres_url).listen("work")
    gaps = two.gaps
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'flexiroaster-bus' AND datname = current_database()"
        ).fetchall()
    assert ended == [(True,)]
    eventually(lambda: two.gaps > gaps)
    one.bus.publish("work", {"seq": 1})
    eventually(lambda: two.told == [("work", 1)])
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("flexiroaster")]
    assert len(lines) == 2
    assert lines[0].startswith("the bus cannot listen to PostgreSQL: ")
    assert lines[1] == "the bus listens to PostgreSQL again"


def test_notifications_lost_in_a_pooler_are_replaced_by_gaps(
    postgres_url: str, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = "flexiroaster.coordination.bus.database"
    monkeypatch.setattr(f"{module}.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(f"{module}.GAP_SECONDS", 0.05)
    monkeypatch.setattr(f"{module}._LISTEN", "LISTEN elsewhere")
    process = start(postgres_url).listen("work")
    eventually(lambda: process.gaps > 5)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("flexiroaster")] == [
        "notifications do not arrive (is a pooler in between?): the bus polls the database instead"
    ]


def sqlite_file(tmp_path: Path) -> Path:
    path = tmp_path / "bus.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return path


def test_on_sqlite_a_commit_of_another_process_is_seen(tmp_path: Path, start: Start) -> None:
    path = sqlite_file(tmp_path)
    process = start(f"sqlite:///{path}").listen("work")
    assert process.bus.transport == "sqlite"
    gaps = process.gaps
    program = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('INSERT INTO t VALUES (1)'); c.commit()"
    subprocess.run([sys.executable, "-c", program], check=True)
    eventually(lambda: process.gaps > gaps)


def test_on_sqlite_own_writes_are_not_a_storm(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    pause = sqlite_bus.sleep
    monkeypatch.setattr(sqlite_bus, "sleep", lambda seconds: (looks.append(seconds), pause(seconds)))
    monkeypatch.setattr(sqlite_bus, "OWN_WRITES_SECONDS", 3600.0)
    path = sqlite_file(tmp_path)
    process = start(f"sqlite:///{path}").listen("work")
    gaps = process.gaps
    with sqlite3.connect(path, isolation_level=None) as connection:
        for number in range(20):
            connection.execute("INSERT INTO t VALUES (1)")
            process.bus.publish("events:x", {"seq": number})
            before = len(looks)
            eventually(lambda before=before: len(looks) > before + 1)  # it has looked since
    connection.close()
    assert process.gaps <= gaps + 1  # the first commit may be seen before the message about it is sent


@pytest.fixture
def both(postgres_url: str, proxies: tuple[Proxy, Proxy], start: Start) -> tuple[Process, Process]:
    """Two processes, each with its own proxy to Redis."""
    one, two = (start(postgres_url, url_of(proxy)) for proxy in proxies)
    return one.listen("work", "events"), two.listen("work", "events")


def test_redis_goes_and_comes_back(both: tuple[Process, Process], proxies: tuple[Proxy, Proxy]) -> None:
    one, two = both
    gaps = two.gaps
    for proxy in proxies:
        proxy.cut()
    one.bus.publish("events:x", {"seq": 1})  # whether it has noticed or not
    eventually(lambda: two.told == [("events:x", 1)])
    eventually(lambda: two.gaps > gaps)
    eventually(lambda: one.bus.transport == two.bus.transport == "postgresql")
    gaps = two.gaps
    for proxy in proxies:
        proxy.mend()
    eventually(lambda: one.bus.transport == two.bus.transport == "redis")
    eventually(lambda: two.hears_redis)
    assert two.gaps > gaps
    one.bus.publish("events:x", {"seq": 2})
    eventually(lambda: two.told == [("events:x", 1), ("events:x", 2)])


def test_a_process_without_redis_is_heard_and_gets_gaps(
    both: tuple[Process, Process], proxies: tuple[Proxy, Proxy]
) -> None:
    one, two = both
    proxies[0].cut()
    eventually(lambda: not one.hears_redis)
    eventually(lambda: (one.bus.transport, two.bus.transport) == ("postgresql", "redis"))
    one.bus.publish("work", {"seq": 1})
    eventually(lambda: two.told == [("work", 1)])
    gaps = one.gaps
    two.bus.publish("work", {"seq": 2})  # where the other cannot hear it
    eventually(lambda: one.gaps > gaps)


def test_a_reader_detects_a_frozen_redis(
    both: tuple[Process, Process], proxies: tuple[Proxy, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = both
    gaps = one.gaps
    monkeypatch.setattr("flexiroaster.coordination.bus.redis.PONG_SECONDS", 0.5)
    proxies[0].freeze()
    eventually(lambda: one.gaps > gaps and not one.hears_redis)
    monkeypatch.setattr("flexiroaster.coordination.bus.redis.PONG_SECONDS", 60.0)
    proxies[0].thaw()
    eventually(lambda: one.hears_redis)


def test_a_subscription_ended_by_the_server_is_renewed(
    both: tuple[Process, Process], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = both
    gaps = (one.gaps, two.gaps)
    with redis.Redis.from_url(redis_url) as admin:
        assert admin.client_kill_filter(_type="pubsub") == 2
        eventually(lambda: one.gaps > gaps[0] + 2 and two.gaps > gaps[1] + 2)  # lost, and heard again: for two topics
        admin.flushall()
    eventually(lambda: one.hears_redis and two.hears_redis)
    one.bus.publish("work", {"seq": 1})
    eventually(lambda: two.told == [("work", 1)])
    assert not [r.getMessage() for r in caplog.records if "away" in r.getMessage()]  # Redis itself never went


def test_a_process_that_may_not_subscribe_to_redis_hears_others_through_the_database(
    postgres_url: str, redis_url: str, start: Start
) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        admin.acl_setuser(
            "writer", enabled=True, nopass=True, keys=["*"], channels=[], reset_channels=True, commands=["+@all"]
        )
        process = start(postgres_url, redis_url.replace("redis://", "redis://writer:any@"))
        process.bus.subscribe("work", process.heard.append)
        other = start(postgres_url, redis_url.replace("redis://", "redis://writer:any@"))
        eventually(lambda: process.gaps >= 2)  # by PostgreSQL's notifications, and since it does not hear Redis
        other.bus.publish("work", {"seq": 1})
        eventually(lambda: process.told == [("work", 1)])
        assert process.link.available
        admin.acl_deluser("writer")


def test_too_many_messages_are_a_gap_for_the_others(
    postgres_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "OUTBOX_LIMIT", 10)
    one, two = start(postgres_url), start(postgres_url).listen("events")
    gaps = two.gaps
    assert isinstance(one.bus, SharedBus)
    with one.bus._outbox._condition:  # nothing is sent meanwhile
        for seq in range(1000):
            one.bus.publish("events:x", {"seq": seq})
    eventually(lambda: two.gaps > gaps)
    one.bus.publish("events:x", {"seq": 1000})
    eventually(lambda: len(two.told) >= 11)
    assert two.told == [("events:x", seq) for seq in (*range(10), 1000)]
    assert two.gaps == gaps + 1


def test_the_last_messages_are_sent_before_the_close(database_url: str, redis_url: str, start: Start) -> None:
    one, two = start(database_url, redis_url), start(database_url, redis_url).listen("work")
    one.bus.publish("work", {"seq": 1})
    one.bus.close()
    one.bus.close()
    eventually(lambda: two.told == [("work", 1)])
    one.bus.publish("work", {"seq": 2})  # to nobody
    one.bus.subscribe("work", one.heard.append)()


def test_nothing_is_left_behind(database_url: str, redis_url: str, proxies: tuple[Proxy, Proxy]) -> None:
    def use_and_close() -> None:
        with ExitStack() as stack:
            process = Process(stack, database_url, url_of(proxies[0])).listen("work", "events:x")
            process.bus.publish("work")
            proxies[0].drop()
            eventually(lambda: process.hears_redis)
        proxies[0].drop()

    def settled() -> tuple[int, int]:
        return len(open_descriptors()), threading.active_count()

    there = set(threading.enumerate())  # this one, the proxies', and what others have left
    use_and_close()
    eventually(lambda: set(threading.enumerate()) <= there)
    before = settled()
    for _ in range(3):
        use_and_close()
    eventually(lambda: settled() == before)
