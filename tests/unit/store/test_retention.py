"""Retention on both databases: a parent stays as long as its reruns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from flexiroaster.config import Settings, load_settings
from flexiroaster.model.event import Event, EventType, utc_now
from flexiroaster.store import retention
from flexiroaster.store.changes import NewExecution, NewStage
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.journal import Journal
from flexiroaster.store.migrate import upgrade
from flexiroaster.store.tables import executions
from tests.waiting import eventually

NOW = utc_now()
OLD, CUTOFF = NOW - timedelta(days=100), NOW - timedelta(days=90)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def journal(database: Database) -> Iterator[Journal]:
    opened = Journal(database)
    yield opened
    opened.close()


def new(execution_id: str, parent_id: str | None = None) -> NewExecution:
    event = Event(execution_id, 1, EventType.EXECUTION_CREATED, "created", OLD)
    return NewExecution(
        execution_id, "p", "Pipe", 1, {}, "test", (NewStage("load", "Load"),), event, parent_id=parent_id
    )


def end(database: Database, *execution_ids: str) -> None:
    """They ended long ago."""
    values = {"status": "completed", "completed_at": OLD, "claimable_at": None}
    with database.write() as connection:
        connection.execute(update(executions).where(executions.c.id.in_(execution_ids)).values(values))


def pruned(database: Database) -> list[list[str]]:
    """What goes, a batch after the other."""
    found = []
    while ids := retention.expired(database, CUTOFF, 100):
        found.append(sorted(retention.forget(database, ids)))
    return found


# --- reruns ----------------------------------------------------------------------------------------------------------


def test_a_parent_stays_as_long_as_a_rerun_of_it(journal: Journal, database: Database) -> None:
    journal.apply([new("first"), new("other")])
    journal.apply([new("second", "first")])
    journal.apply([new("third", "second")])
    end(database, "first", "second", "other")
    assert pruned(database) == [["other"]]
    assert retention.forget(database, ["first", "second"]) == [], "not even where it looked free a moment ago"
    end(database, "third")
    assert pruned(database) == [["third"], ["second"], ["first"]]


def test_a_rerun_of_what_was_pruned_meanwhile_is_not_created(journal: Journal, database: Database) -> None:
    journal.apply([new("first")])
    end(database, "first")
    retention.forget(database, ["first"])
    late = replace(new("second", "first"), concurrency=1, queue=True)
    beside = replace(new("beside"), concurrency=1, queue=True)
    landed = journal.apply([late, beside])
    assert set(landed) == {"beside"}
    assert not landed["beside"].queued, "it took no slot either"


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    opened = open_database(load_settings(database_url=postgres_url))
    yield opened
    opened.close()


def _waits_for_a_lock(database: Database) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.read() as connection:
        return connection.execute(text(waiting)).first() is not None


def test_a_prune_that_waits_for_a_rerun_sees_it(postgres: Database) -> None:
    """On SQLite they come one after the other."""
    journal = Journal(postgres)
    journal.apply([new("first"), new("second")])
    end(postgres, "first")
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(retention.forget(postgres, ["first"])))
    with postgres.write() as connection:  # what the journal does, seen from between its statements
        parent = select(executions.c.id).where(executions.c.id == "first")
        connection.execute(parent.with_for_update(read=True, key_share=True))
        thread.start()
        eventually(lambda: _waits_for_a_lock(postgres))
        connection.execute(update(executions).where(executions.c.id == "second").values(parent_id="first"))
    thread.join(60)
    assert found == [[]]
    journal.close()


def test_a_rerun_that_waits_for_a_prune_is_not_created(postgres: Database) -> None:
    journal = Journal(postgres)
    journal.apply([new("first")])
    landed: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: landed.append(journal.apply([new("second", "first")])))
    with postgres.write() as connection:
        connection.execute(select(executions.c.id).where(executions.c.id == "first").with_for_update())
        thread.start()
        eventually(lambda: _waits_for_a_lock(postgres))
        connection.execute(delete(executions).where(executions.c.id == "first"))
    thread.join(60)
    assert landed == [{}]
    journal.close()
