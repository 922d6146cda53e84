"""Migrations: what they build is what the tables say, once, however many start together."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import StoreError
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store import database as database_module
from flexiroaster.store.access import record_audit_entry
from flexiroaster.store.database import HEAD, Database, current_version, open_database, upgrade_schema
from flexiroaster.store.journal.transitions import Applied
from flexiroaster.store.journal.writer import Journal
from flexiroaster.store.tables import metadata, run_history
from tests.unit.store.test_journal import new, started


@pytest.fixture
def migrated() -> bool:
    return False


def test_migrations_build_what_the_tables_say(settings: Settings) -> None:
    assert run_history.name in metadata.tables  # the tables of the safety engine are among them
    database = open_database(settings)
    assert current_version(database) is None
    assert upgrade_schema(database) is True
    assert upgrade_schema(database) is False
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, as the tables of this release read them."""
    with database.read() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def test_an_upgrade_keeps_what_the_release_before_has_stored(settings: Settings) -> None:
    database = open_database(settings)
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    journal = Journal(database)
    journal.apply([new("parent"), replace(new("rerun"), parent_id="parent")])
    journal.apply([started("parent")])
    entry = {"viewer": "ann", "role": "admin", "action": "createPipeline", "arguments": {"n": 1}, "outcome": "ok"}
    record_audit_entry(database, at=utc_now(), **entry)
    stored = rows(database)
    assert {name for name, found in stored.items() if found} >= {"executions", "stage_runs", "events", "audit_log"}

    assert upgrade_schema(database) is True
    assert rows(database) == stored
    assert journal.apply([started("parent", seq=3, was=ExecutionStatus.RUNNING)]) == {"parent": Applied()}
    journal.close()
    database.close()


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_many_processes_may_start_together(settings: Settings) -> None:
    code = (
        "import sys; from flexiroaster.config import load_settings;"
        "from flexiroaster.store.database import open_database, upgrade_schema;"
        "print(upgrade_schema(open_database(load_settings(database_url=sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, settings.database_url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[0].strip() for process in processes]
    assert sorted(said) == ["False", "False", "False", "True"]


def test_a_newer_database_is_refused(settings: Settings) -> None:
    database = open_database(settings)
    upgrade_schema(database)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="the database is at version '9999', which this release does not know"):
        upgrade_schema(database)
    database.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////no/such/folder/x.db", "DATABASE_URL: the folder '/no/such/folder' does not exist"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot reach the database: .*127.0.0.1.*port 1"),
    ],
)
def test_an_unreachable_database_says_so_without_secrets(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        upgrade_schema(open_database(load_settings(database_url=url)))
    assert "secret" not in str(caught.value)
