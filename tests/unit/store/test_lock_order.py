"""On PostgreSQL all that change several executions lock them in one order, so that none waits in a circle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from flexiroaster.config import load_settings
from flexiroaster.service.installation import open_installation
from flexiroaster.store import leases, retention
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.journal.transitions import Applied
from flexiroaster.store.journal.writer import Journal
from tests.unit.store.test_journal import new, started
from tests.waiting import eventually

IDS = ["e", "d", "c", "b", "a"]
"""As they are in the table: without an order, the last one is locked first."""

WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""

Action = Callable[[Database, Journal], object]


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    opened = open_database(load_settings(database_url=postgres_url))
    yield opened
    opened.close()


def renew(database: Database, _: Journal) -> object:
    return leases.renew(database, "me", IDS, lease_seconds=60) == set(IDS)


def release(database: Database, _: Journal) -> object:
    leases.release(database, "me", IDS)
    return len(leases.claim(database, "you", limit=9, lease_seconds=60)) == len(IDS)


@pytest.mark.parametrize("action", [renew, release])
def test_several_executions_are_locked_in_order(
    database: Database, journal: Journal, postgres_url: str, action: Action
) -> None:
    journal.apply([new(i) for i in IDS])
    assert done_behind(postgres_url, "a", IDS[:-1], lambda: action(database, journal))


def test_a_renewal_and_changes_of_the_same_executions_do_not_wait_for_each_other(
    database: Database, journal: Journal, postgres_url: str
) -> None:
    """Changes lock from the end of the table, renewals from its beginning; both need the one in the middle."""
    journal.apply([new(i) for i in IDS])
    done: list[object] = []

    def change() -> None:
        done.append(journal.apply([started(i) for i in IDS]) == dict.fromkeys(IDS, Applied()))

    def renew_beside() -> None:
        with journal.paused():
            done.append(renew(database, journal))

    with psycopg.connect(postgres_url) as blocker, psycopg.connect(postgres_url, autocommit=True) as probe:
        blocker.execute("SELECT FROM executions WHERE id = 'c' FOR UPDATE")
        threads = [threading.Thread(target=each, daemon=True) for each in (change, renew_beside)]
        threads[0].start()
        eventually(lambda: probe.execute(WAITING).fetchall() == [(1,)])
        threads[1].start()
        eventually(lambda: journal._writer_lock.locked() and threads[1].is_alive())
        assert probe.execute(WAITING).fetchall() == [(1,)], "the renewal waits for the journal"
        blocker.rollback()
        for thread in threads:
            thread.join(60)
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert done == [True, True]
        assert probe.execute(deadlocks).fetchall() == [(0,)]


def test_leases_are_renewed_between_the_writes_of_the_journal(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[bool] = []
    settings = load_settings(database_url=postgres_url, heartbeat_interval=0.05)
    with open_installation(settings) as installation:

        def noted(*_: object, **__: object) -> set[str]:
            beside.append(installation.journal._writer_lock.locked())
            return set()

        monkeypatch.setattr(leases, "renew", noted)
        installation.start_claiming()
        eventually(lambda: beside)
    assert all(beside)


def test_executions_are_forgotten_in_order(database: Database, journal: Journal, postgres_url: str) -> None:
    journal.apply([new(i) for i in IDS])
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE executions SET status = 'completed', claimable_at = NULL")
    assert done_behind(postgres_url, "a", IDS[:-1], lambda: set(retention.delete_executions(database, IDS)) == set(IDS))


def test_idempotency_keys_are_taken_in_order(journal: Journal, postgres_url: str) -> None:
    journal.apply([new("other")])
    with psycopg.connect(postgres_url) as blocker, psycopg.connect(postgres_url) as probe:
        take = "UPDATE executions SET idempotency_key = %s WHERE id = 'other'"
        blocker.execute(take, ["a"])
        created: list[object] = []
        keyed = [replace(new(i), idempotency_key=i) for i in IDS]
        thread = threading.Thread(target=lambda: created.append(journal.apply(keyed)), daemon=True)
        thread.start()
        eventually(lambda: probe.execute(WAITING).fetchall() == [(1,)])
        probe.rollback()
        probe.execute("SET lock_timeout = '5s'")
        probe.execute("CREATE TEMP TABLE copy AS SELECT * FROM executions WHERE id = 'other'")
        for key in IDS[:-1]:
            probe.execute("UPDATE copy SET id = 'probe-' || %s, idempotency_key = %s", [key, key])
            probe.execute("INSERT INTO executions SELECT * FROM copy")
        probe.rollback()
        blocker.rollback()
        thread.join(60)
    assert created == [dict.fromkeys(IDS, Applied())]


def done_behind(url: str, first: str, others: list[str], action: Callable[[], object]) -> object:
    """The outcome of an action that waits for the execution `first`; meanwhile it must not hold any of the others."""
    outcome: list[object] = []
    with psycopg.connect(url) as blocker, psycopg.connect(url, autocommit=True) as probe:
        blocker.execute("SELECT FROM executions WHERE id = %s FOR UPDATE", [first])
        thread = threading.Thread(target=lambda: outcome.append(action()), daemon=True)
        thread.start()
        eventually(lambda: probe.execute(WAITING).fetchall() == [(1,)])
        free = probe.execute("SELECT id FROM executions WHERE id = ANY(%s) FOR UPDATE SKIP LOCKED", [others])
        held = set(others) - {row[0] for row in free}
        blocker.rollback()
        thread.join(60)
    assert held == set()
    return outcome[0]
