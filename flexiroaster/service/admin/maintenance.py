"""Retention: delete old executions, records and artifacts, so that storage stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from flexiroaster.artifacts.store import Artifacts
from flexiroaster.config import Settings
from flexiroaster.model.event import utc_now
from flexiroaster.service.installation import Installation
from flexiroaster.store import database as migrate
from flexiroaster.store import retention
from flexiroaster.store.database import HEAD, Database, open_database

__all__ = ["HEAD", "current_schema", "prune", "prune_records", "sweep", "upgrade_schema"]


BATCH = 200
"""Number of executions or records deleted in one transaction."""

UNTOUCHED = timedelta(days=7)
"""Age after which an unfinished file counts as left behind by a killed worker."""


def prune(installation: Installation, older_than: timedelta) -> int:
    """Delete executions that ended more than `older_than` ago, with their events, commands and artifacts.

    Live and paused executions and those being worked on are kept. An execution is also kept as long as a rerun of it
    exists, because the rerun reads its artifacts. Data that outputs wrote stays, but can no longer be rolled back.
    Returns the number of deleted executions. Raises StoreError.
    """
    installation.risk_state.catch_up()  # the safety engine keeps what it learned from these executions
    before = utc_now() - older_than
    artifacts = Artifacts(installation.settings.artifacts_url)
    total = 0
    while ids := retention.expired(installation.database, before, BATCH):
        forgotten = retention.delete_executions(installation.database, ids)
        if installation.open_signals is not None:
            installation.open_signals.deleted(forgotten)
        for execution_id in forgotten:
            artifacts.remove(execution_id)
        total += len(forgotten)
        if not forgotten:  # all remaining ones are being worked on
            break
    return total


def prune_records(installation: Installation) -> dict[str, int]:
    """Delete the records older than the settings `RETENTION_*_DAYS`; return the number of rows by table.

    Raises StoreError.
    """
    deleted: dict[str, int] = {}
    for setting, rules in retention.RULES.items():
        days: int = getattr(installation.settings, setting)
        before = utc_now() - timedelta(days=days)
        for rule in rules if days else ():
            total = 0
            while number := retention.delete_expired(installation.database, rule, before, BATCH):
                total += number
            deleted[rule.table.name] = total
    return deleted


def sweep(installation: Installation, older_than: timedelta) -> int:
    """Delete orphaned artifacts and leftover files; return the number of folders and files.

    Orphans are artifacts of executions that were created more than `older_than` ago and are not in the database: a
    prune that was killed between database and artifacts leaves them. Leftover files are those that killed workers left
    on this machine more than a week ago. Raises StoreError.
    """
    artifacts = Artifacts(installation.settings.artifacts_url)
    before = utc_now() - older_than
    old = [execution_id for execution_id in artifacts.execution_ids() if _created_at(execution_id) < before]
    orphans = [
        execution_id
        for begin in range(0, len(old), BATCH)
        for execution_id in retention.without_execution(installation.database, old[begin : begin + BATCH])
    ]
    for execution_id in orphans:
        artifacts.remove(execution_id)
    return len(orphans) + artifacts.sweep((utc_now() - UNTOUCHED).timestamp())


def _created_at(execution_id: str) -> datetime:
    """Return when an execution was created: its id begins with the milliseconds, see `new_id`."""
    return datetime.fromtimestamp(int(execution_id[5:17], 16) / 1000, UTC)


# The version of the database schema: read it, and upgrade it to this release.
def current_schema(settings: Settings) -> str | None:
    """Return the schema version of the database; None if it has no FlexiRoaster tables. Raises StoreError."""
    with _opened(settings) as database:
        return migrate.current_version(database)


def upgrade_schema(settings: Settings) -> tuple[str | None, str]:
    """Upgrade to HEAD and return the versions before and after. Raises StoreError."""
    with _opened(settings) as database:
        before = migrate.current_version(database)
        migrate.upgrade_schema(database)
        return before, HEAD


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    try:
        yield database
    finally:
        database.close()
