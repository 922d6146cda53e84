"""Lost leases are counted once each, whenever one looks, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert, update

from flexiroaster.config import Settings
from flexiroaster.model.event import EventType, utc_now
from flexiroaster.service.admin.metrics import SKEW, LeaseLosses
from flexiroaster.store import leases
from flexiroaster.store.database import Database, open_database, upgrade_schema
from flexiroaster.store.tables import events, executions
from tests.history import made_up

HOUR = timedelta(hours=1)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings)
    upgrade_schema(opened)
    yield opened
    opened.close()


class History:
    """Executions as their rows and events stand, one more event at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._ids = iter(made_up(200, seed=7))

    def add(self, status: str, *, token: int = 2, ended: datetime | None = None) -> str:
        """One that was claimed so often; one that runs is driven."""
        row = next(self._ids)
        driven = utc_now() if status == "running" else None
        values = {**row, "status": status, "fencing_token": token, "completed_at": ended, "claimable_at": driven}
        with self.database.write() as connection:
            connection.execute(insert(executions).values({**values, "last_seq": 0}))
        return str(row["id"])

    def tell(self, execution_id: str, *types: EventType, at: datetime | None = None) -> None:
        with self.database.write() as connection:
            key = executions.c.id == execution_id
            for kind in types:
                number = update(executions).where(key).values(last_seq=executions.c.last_seq + 1)
                seq = connection.execute(number.returning(executions.c.last_seq)).scalar_one()
                values = {"execution_id": execution_id, "seq": seq, "type": kind, "at": at or utc_now()}
                connection.execute(insert(events).values({**values, "level": "info", "message": "told"}))

    def set(self, execution_id: str, **values: object) -> None:
        with self.database.write() as connection:
            connection.execute(update(executions).where(executions.c.id == execution_id).values(**values))


@pytest.fixture
def history(database: Database) -> History:
    return History(database)


TAKEN, LOG = EventType.EXECUTION_CLAIMED, EventType.STAGE_LOG


def test_each_is_counted_once_however_often_one_looks(history: History) -> None:
    losses = LeaseLosses(utc_now())
    running = history.add("running")
    counts = []
    for told in ([LOG], [TAKEN, LOG], [LOG], [TAKEN, TAKEN], []):
        history.tell(running, *told)
        losses.update(history.database)
        counts.append(losses.count)
    history.set(running, status="completed", claimable_at=None, completed_at=utc_now())
    history.tell(running, LOG)
    losses.update(history.database)
    assert [*counts, losses.count] == [0, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("status", ["running", "paused", "completed", "failed"])
def test_it_is_counted_whatever_has_become_of_it_since(history: History, status: str) -> None:
    losses = LeaseLosses(utc_now())
    losses.update(history.database)
    history.tell(history.add(status, ended=utc_now() if status in {"completed", "failed"} else None), TAKEN)
    losses.update(history.database)
    assert losses.count == 1


def test_what_was_lost_before_is_not_counted(history: History) -> None:
    long_ago = utc_now() - HOUR
    history.tell(history.add("running"), TAKEN, at=long_ago)
    history.tell(history.add("completed", ended=long_ago), TAKEN, at=long_ago)
    losses = LeaseLosses(utc_now())
    losses.update(history.database)
    assert losses.count == 0


def test_one_that_is_retried_later_does_not_count_again(history: History) -> None:
    """It is forgotten in between, and its events of that time are read once more."""
    losses = LeaseLosses(utc_now() - HOUR)
    failed = history.add("failed", ended=utc_now() - 4 * SKEW)
    history.tell(failed, TAKEN, at=utc_now() - 4 * SKEW)
    losses.update(history.database)
    losses.update(history.database)
    assert losses._seen == {}
    history.set(failed, status="running", claimable_at=utc_now(), completed_at=None)
    history.tell(failed, EventType.EXECUTION_RETRIED)
    losses.update(history.database)
    assert losses.count == 1
    history.tell(failed, TAKEN)
    losses.update(history.database)
    assert losses.count == 2


def test_many_executions_are_read_in_parts(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_CHUNK", 3)
    losses = LeaseLosses(utc_now())
    for _ in range(10):
        history.tell(history.add("running"), TAKEN)
    losses.update(history.database)
    assert losses.count == 10


def test_one_that_was_claimed_once_is_not_read(history: History) -> None:
    history.tell(history.add("running", token=1), LOG)
    assert leases.claimed_again(history.database, utc_now() - HOUR) == {}
