"""A database with our tables, and a journal that writes to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flexiroaster.config import Settings
from flexiroaster.store.database import Database, open_database, upgrade_schema
from flexiroaster.store.journal.writer import Journal


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings)
    upgrade_schema(opened)
    yield opened
    opened.close()


@pytest.fixture
def journal(database: Database) -> Iterator[Journal]:
    opened = Journal(database)
    yield opened
    opened.close()
