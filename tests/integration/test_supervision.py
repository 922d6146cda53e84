"""No thread of a process dies of an error: health tells which one fails, and it goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.coordination.redis.link import RedisLink
from flexiroaster.service import pipelines
from flexiroaster.service.admin import metrics
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.threads import SupervisedThread
from tests.integration.test_runs import rows
from tests.waiting import eventually

ESSENTIAL = {"flexiroaster-scheduler", "flexiroaster-leases", "flexiroaster-lease-watch"}
OTHERS = {"flexiroaster-learner", "flexiroaster-bus-redis"}
WITH_WORK = {"flexiroaster-bus-send", "flexiroaster-redis-later"}
"""They start once there is something to send."""

UNSUPERVISED = {"flexiroaster-driver"}
"""It ends its process."""

PASSING = {"flexiroaster-redis-probe", "flexiroaster-cache"}
"""Supervised as well: the one runs while Redis is away, the other once there is something to tell."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names of threads whose turns raise, whatever they are about to do."""
    names: set[str] = set()
    init = SupervisedThread.__init__

    def breakable(self: SupervisedThread, turn: Callable[[], bool], *, name: str, **options: Any) -> None:
        def turned() -> bool:
            if name in names:
                raise LookupError(f"in {name}")
            return turn()

        init(self, turned, name=name, **options)

    monkeypatch.setattr(SupervisedThread, "__init__", breakable)
    yield names
    names.clear()


def completes(installation: Installation) -> bool:
    revision = pipelines.create(installation, {"name": "T", "stages": [rows("a", {"x": 1})]})
    return executions.wait(installation, executions.start(installation, revision), 120).status == "completed"


def test_every_thread_survives_an_error_and_health_names_it(
    settings: Settings, redis_url: str, broken: set[str]
) -> None:
    database = "sqlite" if settings.database_url.startswith("sqlite") else "postgres"
    names = ESSENTIAL | OTHERS | WITH_WORK | {f"flexiroaster-bus-{database}"}
    broken |= names
    with open_installation(settings.model_copy(update={"redis_url": redis_url, "heartbeat_interval": 0.2})) as opened:
        opened.start_claiming()
        opened.signals.created("exec-x")
        opened.signals.publish_leases(())
        expected = {name: f"LookupError: in {name}" for name in names}
        eventually(lambda: metrics.check(opened).executor.details["failing"] == expected)
        report = metrics.check(opened)
        assert (report.executor.status, report.status, report.ready) == ("unhealthy", "degraded", False)
        ours = {t.name for t in threading.enumerate() if t.name.startswith("flexiroaster-")}
        assert ours - PASSING == names | UNSUPERVISED
        broken.clear()
        eventually(lambda: metrics.check(opened).executor.status == "healthy")
        assert metrics.check(opened).ready
        assert completes(opened)


def test_redis_is_found_again_after_an_error_in_looking_for_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, failed = RedisLink._probe, threading.Event()

    def fail_once(self: RedisLink) -> Exception | None:
        if not failed.is_set():
            failed.set()
            raise LookupError
        return probe(self)

    monkeypatch.setattr(RedisLink, "_probe", fail_once)
    with closing(RedisLink(load_settings(redis_url=redis_url, redis_socket_timeout=5.0))) as link:
        eventually(lambda: link.wait(1.0))
        assert failed.is_set()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["flexiroaster-learner", "flexiroaster-scheduler"])
def test_only_what_executions_need_takes_a_process_out_of_service(
    settings: Settings, broken: set[str], name: str
) -> None:
    broken.add(name)
    with open_installation(settings) as opened:
        opened.start_claiming()
        eventually(lambda: opened.failures)
        report = metrics.check(opened)
        found = (report.executor.status, report.status, report.ready)
        if name in ESSENTIAL:
            assert found == ("unhealthy", "degraded", False)
        else:
            assert found == ("degraded", "degraded", True)
        assert completes(opened), "what is started here needs neither"
