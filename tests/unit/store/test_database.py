"""What goes wrong between us and the database is a StoreError, whichever class of SQLAlchemy's it comes as."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import exc

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import ConflictError, InputError, StoreError
from flexiroaster.store import leases
from flexiroaster.store.database import Database, open_database

GONE = sqlite3.DatabaseError("gone")
AWAY = [
    exc.OperationalError("SELECT 1", {}, GONE),
    exc.InterfaceError("SELECT 1", {}, GONE),
    exc.InternalError("UPDATE x", {}, psycopg.errors.ReadOnlySqlTransaction("it is a standby")),
    exc.TimeoutError("QueuePool limit of size 1 overflow 0 reached"),
    exc.DisconnectionError("gone"),
    exc.PendingRollbackError("this connection was invalidated"),
    exc.ResourceClosedError("this connection is closed"),
    exc.DatabaseError("SELECT 1", {}, GONE, connection_invalidated=True),
]
WAYS: list[Callable[[Database], Any]] = [Database.read, Database.write, Database.write_without_sync]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings.model_copy(update={"database_pool_size": 1, "database_max_overflow": 1}))
    opened.engine.pool._timeout = 0.01  # type: ignore[attr-defined] # SQLAlchemy has no public name for it
    yield opened
    opened.close()


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_database_that_cannot_be_reached_is_a_store_error(error: Exception, way: Callable[[Database], Any]) -> None:
    opened = open_database(load_settings(database_url="sqlite://"))
    with pytest.raises(StoreError, match=r"^cannot reach the database: "), way(opened):
        raise error
    opened.close()


def test_what_the_database_says_about_values_is_none(database: Database) -> None:
    with pytest.raises(ConflictError), database.read():
        raise exc.IntegrityError("INSERT", {}, GONE)
    with pytest.raises(InputError), database.read():
        raise exc.DataError("INSERT", {}, GONE)


def test_so_many_connections_are_opened_as_the_settings_say_and_one_more_is_a_store_error(database: Database) -> None:
    with database.read(), database.engine.connect():
        for refused in (
            lambda: leases.renew(database, "me", {"x"}, lease_seconds=15),
            lambda: leases.release(database, "me", {"x"}),
            lambda: leases.has_claimable(database),
            lambda: leases.claim(database, "me", limit=1, lease_seconds=15),
            lambda: leases.load_execution(database, "x"),
        ):
            with pytest.raises(StoreError, match="QueuePool limit of size 1 overflow 1 reached"):
                refused()
    assert leases.has_claimable(database) is False
