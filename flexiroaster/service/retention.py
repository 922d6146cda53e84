"""Keep the database from growing for ever."""

from __future__ import annotations

from datetime import timedelta

from flexiroaster.engine.artifacts import Artifacts
from flexiroaster.model.event import utc_now
from flexiroaster.service.installation import Installation
from flexiroaster.store import retention

__all__ = ["prune"]

BATCH = 200
"""Executions that are deleted in one transaction."""


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
