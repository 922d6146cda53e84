"""The version of the database schema: read it, and upgrade it to this release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flexiroaster.config import Settings
from flexiroaster.store import migrate
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.migrate import HEAD

__all__ = ["HEAD", "current", "upgrade"]


def current(settings: Settings) -> str | None:
    """Return the schema version of the database; None if it has no FlexiRoaster tables. Raises StoreError."""
    with _opened(settings) as database:
        return migrate.current(database)


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Upgrade to HEAD and return the versions before and after. Raises StoreError."""
    with _opened(settings) as database:
        before = migrate.current(database)
        migrate.upgrade(database)
        return before, HEAD


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    try:
        yield database
    finally:
        database.close()
