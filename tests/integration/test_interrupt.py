"""An abandoned read also ends in the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.database import Database

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


class Reader:
    """A thread that reads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reading = threading.Event()
        self.thread = 0

    def endless(self) -> None:
        self.thread = threading.get_ident()
        with self.database.read() as connection:
            self.reading.set()
            connection.execute(text(ENDLESS[self.database.engine.dialect.name]))

    def one(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())


def test_a_read_is_cancelled_and_the_thread_can_read_again(installation: Installation) -> None:
    reader = Reader(installation.database)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reader.endless)
        assert reader.reading.wait(120)
        for _ in range(600):  # the first time the statement may not have reached the database yet
            installation.interrupt(reader.thread)
            try:
                asked.result(timeout=0.1)
            except TimeoutError:
                continue
            except StoreError as error:
                said = error.message
                break
        else:
            pytest.fail("the read goes on")
        assert "interrupt" in said or "cancel" in said
        assert pool.submit(reader.one).result(timeout=120) == 1


def test_a_thread_without_a_read_is_not_interrupted(installation: Installation) -> None:
    installation.interrupt(threading.get_ident())
    assert Reader(installation.database).one() == 1
    with installation.database.write() as connection:
        installation.interrupt(threading.get_ident())
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_a_read_within_a_read_is_the_one_that_ends(installation: Installation) -> None:
    reader = Reader(installation.database)
    with installation.database.read() as outer:
        assert reader.one() == 1
        installation.interrupt(threading.get_ident())
        assert outer.execute(text("SELECT 2")).scalar_one() == 2
