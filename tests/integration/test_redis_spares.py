"""Redis in front of the database, through the service: what it spares, and that nothing depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from flexiroaster.config import Settings
from flexiroaster.coordination.redis import cache
from flexiroaster.errors import ConflictError, NotFoundError
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service import pipelines
from flexiroaster.service.admin import maintenance
from flexiroaster.service.executions import commands, events, executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import executions as queries
from tests.integration.test_runs import FUNCTIONS, python, rows
from tests.proxy import Proxy, running_proxy
from tests.statements import statements
from tests.waiting import eventually


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with running_proxy("127.0.0.1", urlsplit(redis_url).port or 0) as running:
        yield running


@pytest.fixture
def shared(settings: Settings, proxy: Proxy, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Through the proxy; a Redis that is not frozen gets all the time that a busy machine may take."""
    freezes = hasattr(request.node, "callspec") and request.node.callspec.params.get("outage") == "freeze"
    changes = {
        "python_modules": (FUNCTIONS,),
        "artifacts_url": str(tmp_path / "artifacts"),
        "executor_stop_grace": 0.5,
        "redis_url": f"redis://127.0.0.1:{proxy.port}/0",
        "redis_socket_timeout": 1.0 if freezes else 20.0,
        "execution_lock_ttl": 60.0,  # of which no call to Redis takes more than a third
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def driving(shared: Settings) -> Iterator[Installation]:
    with open_installation(shared) as opened:
        opened.start_claiming()
        eventually(lambda: opened.signals.health().redis.available)
        yield opened


@pytest.fixture
def serving(shared: Settings) -> Iterator[Installation]:
    """Another process's side of it, which starts and reads."""
    with open_installation(shared) as opened:
        eventually(lambda: opened.signals.health().redis.available)
        yield opened


def nothing(_proxy: Proxy) -> None:
    pass


OUTAGES = {"cut": (Proxy.cut, Proxy.mend), "freeze": (Proxy.freeze, Proxy.thaw), "none": (nothing, nothing)}


def is_postgres(installation: Installation) -> bool:
    return not installation.database.is_sqlite


def begin_long(installation: Installation, concurrency: int = 1) -> tuple[pipelines.Revision, str]:
    body = {"name": "T", "concurrency": concurrency, "stages": [python("a", "sleep_long", max_retries=0)]}
    revision = pipelines.create(installation, body)
    return revision, executions.start(installation, revision)


def end(installation: Installation, execution_id: str) -> None:
    commands.stop(installation, execution_id)
    eventually(lambda: queries.execution(installation.database, execution_id).status == ExecutionStatus.CANCELLED)


def test_many_readers_ask_the_database_once(
    driving: Installation, serving: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KNOWN_SECONDS", 3600.0)
    for one in (driving, serving):
        if one.signals._states is not None:  # a state is served for so long, however slow the machine is
            monkeypatch.setattr(one.signals._states, "_milliseconds", 3_600_000)
    _, x = begin_long(driving)
    eventually(lambda: executions.get(serving, x).status == "running")
    truth = queries.execution(serving.database, x)
    eventually(lambda: executions.get(serving, x) == truth)
    with statements(serving) as asked:
        assert {str(executions.get(serving, x)) for _ in range(50)} == {str(truth)}
    assert len(asked) <= 2 if is_postgres(serving) else len(asked) == 50
    end(driving, x)


def test_what_was_shown_or_written_is_not_followed_by_older_state(driving: Installation, serving: Installation) -> None:
    revision = pipelines.create(driving, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
    for _ in range(10):
        x = executions.start(driving, revision)
        for told in events.follow(serving, x):
            assert executions.get(serving, x).last_seq >= told.seq
        assert executions.get(serving, x).status == "completed"
        driving.driver.wait(x)
        assert executions.get(driving, x).status == "completed"


def test_who_drives_it_sees_its_end_at_once(driving: Installation, serving: Installation) -> None:
    _, x = begin_long(driving)
    eventually(lambda: executions.get(serving, x).status == "running")
    commands.stop(driving, x)
    driving.driver.wait(x, 120)
    assert executions.get(driving, x).status == "cancelled"


def test_what_was_deleted_here_is_gone(driving: Installation) -> None:
    revision = pipelines.create(driving, {"name": "T", "stages": [rows("a", {"x": 1})]})
    x = executions.start(driving, revision)
    executions.wait(driving, x, timeout=120)
    assert executions.get(driving, x).status == "completed"
    assert maintenance.prune(driving, timedelta(0)) == 1
    with pytest.raises(NotFoundError):
        executions.get(driving, x)


@pytest.mark.parametrize("outage", ["cut", "freeze", "flush"])
def test_states_are_right_without_redis(
    driving: Installation, serving: Installation, proxy: Proxy, redis_url: str, outage: str
) -> None:
    _, x = begin_long(driving)
    eventually(lambda: executions.get(serving, x).status == "running")
    begin_outage, end_outage = OUTAGES["none" if outage == "flush" else outage]
    begin_outage(proxy)
    if outage == "flush":
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
            client.script_flush()
    end(driving, x)
    assert eventually(lambda: executions.get(serving, x).status == "cancelled")
    end_outage(proxy)
    eventually(lambda: serving.signals.health().redis.available)
    assert executions.get(serving, x).status == "cancelled"


def test_duplicates_are_refused_without_a_transaction(driving: Installation, serving: Installation) -> None:
    revision, x = begin_long(driving)
    commits = serving.start_journal.commits
    for _ in range(20):
        with pytest.raises(ConflictError, match=f"is running already: {x}$"):
            executions.start(serving, revision, drive=False)
    if is_postgres(serving):
        assert serving.start_journal.commits == commits, "Redis knew of it from the one that started it"
    end(driving, x)
    eventually(lambda: executions.start(serving, revision, drive=False))


def test_duplicates_are_known_again_after_the_first_refusal(
    driving: Installation, serving: Installation, redis_url: str
) -> None:
    revision, x = begin_long(driving)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        client.script_flush()
    commits = serving.start_journal.commits
    for _ in range(5):
        with pytest.raises(ConflictError, match=f"is running already: {x}$"):
            executions.start(serving, revision, drive=False)
    if is_postgres(serving):
        assert serving.start_journal.commits <= commits + 1
    end(driving, x)


def test_nobody_is_refused_because_redis_is_behind(
    driving: Installation, serving: Installation, redis_url: str
) -> None:
    revision, x = begin_long(driving)
    with pytest.raises(ConflictError):
        executions.start(serving, revision, drive=False)
    end(driving, x)
    key = f"slots:{revision.id}"
    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.keys(f"*{key}") or [f"flexiroaster:{key}".encode()]
        client.delete(name)
        client.zadd(name, {"somebody-who-died": 4e12})
    executions.start(serving, revision, drive=False)


def test_the_same_request_is_answered_while_it_runs(driving: Installation, serving: Installation) -> None:
    revision = pipelines.create(driving, {"name": "T", "stages": [python("a", "sleep_long", max_retries=0)]})
    x = executions.start(driving, revision, idempotency_key="k")
    assert [executions.start(serving, revision, idempotency_key="k", drive=False) for _ in range(3)] == [x] * 3
    with pytest.raises(ConflictError, match="was used for another request"):
        executions.start(serving, revision, {"other": 1}, idempotency_key="k", drive=False)
    end(driving, x)


@pytest.mark.parametrize("outage", OUTAGES)
def test_of_many_starts_at_once_one_is_accepted(serving: Installation, proxy: Proxy, outage: str) -> None:
    revision = pipelines.create(serving, {"name": "T", "stages": [rows("a", {"x": 1})]})
    begin_outage, end_outage = OUTAGES[outage]
    begin_outage(proxy)

    def start(_number: int) -> bool:
        try:
            executions.start(serving, revision, drive=False)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(start, range(24))) == 1
    end_outage(proxy)


def test_definitions_are_read_once_where_executions_are_claimed(driving: Installation, serving: Installation) -> None:
    revision = pipelines.create(serving, {"name": "T", "concurrency": None, "stages": [rows("a", {"x": 1})]})
    with statements(driving) as asked:
        ids = [executions.start(serving, revision, drive=False) for _ in range(5)]
        assert [str(executions.wait(driving, x, timeout=120).status) for x in ids] == ["completed"] * 5
    assert sum("pipeline_revisions" in statement for statement in asked) == 1
    with statements(serving) as asked:
        shown = [pipelines.definition(serving, revision.id, 1) for _ in range(3)]
    assert shown == [driving.definition(revision.id, 1)] * 3
    assert asked == [], "the other process has put it into Redis"
