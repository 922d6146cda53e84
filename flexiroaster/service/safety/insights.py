"""Insights: findings of the safety engine that users should know about, one per cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flexiroaster.model.event import utc_now
from flexiroaster.model.paging import Page, Window
from flexiroaster.safety.anomaly.alarms import Alarms
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety.insight_messages import ERROR_BURST
from flexiroaster.store.safety import insights, risk
from flexiroaster.store.safety.insights import InsightFilter, InsightRow
from flexiroaster.store.safety.risk import ALARMS

__all__ = ["Accuracy", "InsightFilter", "InsightRow", "accuracy", "count", "listing", "page"]

BURST_DURATION = timedelta(hours=1)
BATCHES = 20


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of one alarm type: finished runs with such an alarm (`raised`), and how many of them completed,
    which makes the alarm false. `false_rate` is None before the first alarm.
    """

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None


def accuracy(installation: Installation) -> list[Accuracy]:
    """Return the accuracy of each alarm type since this installation began, sorted by name. Raises StoreError."""
    installation.risk_state.catch_up(batches=BATCHES)
    with installation.database.read() as connection:
        stored = risk.load_states(connection, [(ALARMS, "")])
    kinds = Alarms.from_json(stored.get((ALARMS, ""), {})).kinds
    return [Accuracy(kind, count.raised, count.false, count.false_rate) for kind, count in sorted(kinds.items())]


def page(
    installation: Installation, wanted: InsightFilter | None = None, window: Window | None = None
) -> Page[InsightRow]:
    """Return a page of the matching insights, newest first. Raises InputError (cursor), StoreError."""
    _catch_up(installation)
    return insights.page(installation.database, wanted or InsightFilter(), window or Window())


def count(installation: Installation, wanted: InsightFilter | None = None) -> int:
    """Return the number of matching insights. Raises StoreError."""
    return insights.count(installation.database, wanted or InsightFilter())


def listing(
    installation: Installation,
    *,
    pipeline_id: str | None = None,
    execution_id: str | None = None,
    unresolved_only: bool = False,
    hours: float | None = None,
    skip: int = 0,
    limit: int = 50,
) -> tuple[list[InsightRow], int]:
    """Return a slice of the matching insights, newest first, and the number of matches; `hours` limits their age.

    Raises StoreError.
    """
    _catch_up(installation)
    after = None if hours is None else utc_now() - timedelta(hours=hours)
    wanted = InsightFilter(pipeline_id, execution_id, unresolved_only, after)
    return insights.offset_page(installation.database, wanted, skip, limit)


def _catch_up(installation: Installation) -> None:
    """Process runs that ended since the last call: they can create new insights or resolve old ones."""
    installation.risk_state.catch_up(batches=BATCHES)
    now = utc_now()
    if insights.count(installation.database, InsightFilter(unresolved_only=True)):
        with installation.database.write() as connection:
            insights.resolve_older(connection, ERROR_BURST, now - BURST_DURATION, now)
