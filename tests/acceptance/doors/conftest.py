"""One installation per database, with its own server, and its four interfaces."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from flexiroaster.config import Settings, load_settings, psycopg_url
from flexiroaster.service.installation import open_installation
from tests.acceptance.doors.cli_door import CliDoor
from tests.acceptance.doors.door import Door
from tests.acceptance.doors.graphql_door import GraphQLDoor
from tests.acceptance.doors.python_door import PythonDoor
from tests.acceptance.doors.rest_door import RestDoor
from tests.acceptance.doors.table import DOORS, able
from tests.faults.tiers import DATABASES, full
from tests.integration.graphql_api.served import ROOT, served


@dataclass
class House:
    """The interfaces by name, and the database that stages write to."""

    doors: dict[str, Door]
    http: httpx.Client
    outputs: sqlalchemy.Engine

    @property
    def python(self) -> Door:
        """The Python interface, which prepares and checks what the others do."""
        return self.doors["Python"]

    def rows(self, table: str) -> list[Any] | None:
        """The values of the column `n`; None if the table does not exist."""
        with self.outputs.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table(table):
                return None
            return list(connection.execute(sqlalchemy.text(f'SELECT n FROM "{table}" ORDER BY n')).scalars())


@pytest.fixture(scope="session", params=DATABASES if full() else ["postgresql"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The server is one process, Python is this process, and each call of the command line is a process."""
    folder = tmp_path_factory.mktemp("doors")
    with _database(request, folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = _settings(url, folder)
        environment = _environment(settings)
        with (
            # nobody reads its log, and a pipe that is full would hold it up
            served(**environment, LOG_LEVEL="WARNING") as server,
            httpx.Client(base_url=server.url, timeout=60) as http,
            open_installation(settings) as installation,
        ):
            _ = installation.signals  # open, so that it hears at once what is asked of what it drives
            doors: list[Door] = [PythonDoor(installation), CliDoor(environment), GraphQLDoor(http), RestDoor(http)]
            outputs = sqlalchemy.create_engine(psycopg_url(settings.output_database_url))
            yield House({door.name: door for door in doors}, http, outputs)
            outputs.dispose()
            server.end()


@pytest.fixture(params=DOORS)
def door(house: House, request: pytest.FixtureRequest) -> Door:
    """Each interface: a test with this fixture runs once per interface."""
    return house.doors[request.param]


@pytest.fixture
def by(house: House, door: Door) -> Callable[[str], Door]:
    """The interface for a call: the tested one, or Python if docs/doors.md says that this one lacks the call."""
    return lambda call: door if able(door.name, call) else house.python


@contextmanager
def _database(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'doors.db'}"
        return
    server, name = request.getfixturevalue("postgres_uri"), f"doors_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _settings(url: str, folder: Path) -> Settings:
    return load_settings(
        database_url=url,
        output_database_url=url if url.startswith("postgresql") else f"sqlite:///{folder / 'output.db'}",
        artifacts_url=str(folder / "artifacts"),
        redis_url="",
        python_modules=("tests.functions",),
        executor_workers=2,
        executor_stop_grace=1.0,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """The same settings as environment variables."""
    found = {name: getattr(settings, name) for name in settings.model_fields_set}
    values = {name.upper(): json.dumps(v) if isinstance(v, tuple) else str(v) for name, v in found.items()}
    return {**values, "PYTHONPATH": str(ROOT)}
