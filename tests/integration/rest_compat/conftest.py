from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexiroaster.config import Settings, load_settings
from tests.conftest import postgres_database
from tests.integration.rest_compat.client import Rest, serving


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def rest_settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings for each database, with a folder that outlasts the tests' working directories."""
    folder = tmp_path_factory.mktemp("rest")
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), folder / "rest.db")
        yield _settings(f"sqlite:///{folder / 'rest.db'}", folder)
        return
    server, template = request.getfixturevalue("postgres_uri"), request.getfixturevalue("postgres_template")
    with postgres_database(server, template) as url:
        yield _settings(url, folder)


@pytest.fixture(scope="module")
def rest(rest_settings: Settings) -> Iterator[Rest]:
    """A server without tokens that runs executions; tests leave no execution live."""
    with serving(rest_settings) as running:
        yield running


def _settings(url: str, folder: Path) -> Settings:
    return load_settings(
        database_url=url,
        artifacts_url=str(folder / "artifacts"),
        output_database_url=f"sqlite:///{folder / 'output.db'}",
        redis_url="",
        python_modules=("tests.integration.stages",),
        executor_retry_delay=0.01,
        executor_workers=2,
        executor_stop_grace=1.0,
        cors_origins=("https://dashboard.example",),
    )
