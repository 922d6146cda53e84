"""Keep the database from growing for ever."""

from __future__ import annotations

from datetime import timedelta

from flexiroaster.engine.artifacts import Artifacts
from flexiroaster.model.event import utc_now
from flexiroaster.service.installation import Installation
from flexiroaster.store import retention

__all__ = ["prune"]

BATCH = 200


def prune(installation: Installation, older_than: timedelta) -> int:
    """Forget executions that ended longer ago than that, with their events, commands and artifacts; how many.

    Whatever is live, paused or being worked on stays. What outputs wrote stays, but can no longer be rolled back.
    Raises StoreError.
    """
    installation.knowledge.catch_up()  # what the safety engine has learned from them stays
    before = utc_now() - older_than
    artifacts = Artifacts(installation.settings.artifacts_url)
    total = 0
    while ids := retention.expired(installation.database, before, BATCH):
        forgotten = retention.forget(installation.database, ids)
        for execution_id in forgotten:
            artifacts.remove(execution_id)
        if installation.open_signals is not None:
            installation.open_signals.deleted(forgotten)
        total += len(forgotten)
        if not forgotten:  # somebody has begun to work on all of them
            break
    return total
