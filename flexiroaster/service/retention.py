"""Retention: keep the database and the artifacts from growing without bound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flexiroaster.engine.artifacts import Artifacts
from flexiroaster.model.event import utc_now
from flexiroaster.service.installation import Installation
from flexiroaster.store import retention

__all__ = ["prune", "prune_records", "sweep"]

BATCH = 200
"""Executions or records that are deleted in one transaction."""

UNTOUCHED = timedelta(days=7)
"""Unfinished files that nothing has written to for so long belong to a worker that was killed."""


def prune(installation: Installation, older_than: timedelta) -> int:
    """Forget executions that ended longer ago than that, with their events, commands and artifacts; how many.

    An execution that is live, paused or being worked on stays, and one stays as long as a rerun of it does: the rerun
    reads its artifacts. What outputs wrote stays, but can no longer be rolled back.
    Raises StoreError.
    """
    installation.knowledge.catch_up()  # what the safety engine has learned from them stays
    before = utc_now() - older_than
    artifacts = Artifacts(installation.settings.artifacts_url)
    total = 0
    while ids := retention.expired(installation.database, before, BATCH):
        forgotten = retention.forget(installation.database, ids)
        if installation.open_signals is not None:
            installation.open_signals.deleted(forgotten)
        for execution_id in forgotten:
            artifacts.remove(execution_id)
        total += len(forgotten)
        if not forgotten:  # all of them are being worked on by now
            break
    return total


def prune_records(installation: Installation) -> dict[str, int]:
    """Delete the records that are older than the settings `RETENTION_*_DAYS` allow; how many rows by table.

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
    """Delete what no execution will: artifacts of executions that were created longer ago than that and are not in the
    database, and what killed workers left on this machine more than a week ago. How many folders and files.

    A prune that was killed between database and artifacts leaves such folders. Raises StoreError.
    """
    artifacts = Artifacts(installation.settings.artifacts_url)
    before = utc_now() - older_than
    old = [execution_id for execution_id in artifacts.execution_ids() if _created_at(execution_id) < before]
    orphans = [
        execution_id
        for begin in range(0, len(old), BATCH)
        for execution_id in retention.unknown(installation.database, old[begin : begin + BATCH])
    ]
    for execution_id in orphans:
        artifacts.remove(execution_id)
    return len(orphans) + artifacts.sweep((utc_now() - UNTOUCHED).timestamp())


def _created_at(execution_id: str) -> datetime:
    """When an execution was created: its id begins with the milliseconds, see `service.executions.new_id`."""
    return datetime.fromtimestamp(int(execution_id[5:17], 16) / 1000, UTC)
