"""Insights: what the safety engine has found and people should know, one for each cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flexiroaster.model.event import utc_now
from flexiroaster.safety.alarms import Alarms
from flexiroaster.service.findings import ERROR_BURST
from flexiroaster.service.installation import Installation
from flexiroaster.store import insights, risk_states
from flexiroaster.store.insights import InsightFilter, InsightRow
from flexiroaster.store.keyset import Page, Window
from flexiroaster.store.risk_states import ALARMS

__all__ = ["Accuracy", "InsightFilter", "InsightRow", "accuracy", "count", "listing", "page"]

BURST_LASTS = timedelta(hours=1)
BATCHES = 20


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often alarms of one type were raised, in runs that have ended, and how many of those runs completed all the
    same: those alarms were false. `false_rate` is None while there was none.
    """

    insight_type: str
    raised: int
    false_alarms: int
    false_rate: float | None


def accuracy(installation: Installation) -> list[Accuracy]:
    """The record of each type of alarm since this installation began, by name. Raises StoreError."""
    installation.knowledge.catch_up(batches=BATCHES)
    with installation.database.read() as connection:
        stored = risk_states.load(connection, [(ALARMS, "")])
    kinds = Alarms.from_json(stored.get((ALARMS, ""), {})).kinds
    return [Accuracy(kind, known.raised, known.false, known.false_rate) for kind, known in sorted(kinds.items())]


def page(
    installation: Installation, wanted: InsightFilter | None = None, window: Window | None = None
) -> Page[InsightRow]:
    """A page of the insights that match, newest first. Raises InputError (cursor), StoreError."""
    _catch_up(installation)
    return insights.page(installation.database, wanted or InsightFilter(), window or Window())


def count(installation: Installation, wanted: InsightFilter | None = None) -> int:
    """How many insights match. Raises StoreError."""
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
    """A part of the insights, newest first, and how many match; those created in the last `hours`, if given.

    Raises StoreError.
    """
    _catch_up(installation)
    after = None if hours is None else utc_now() - timedelta(hours=hours)
    wanted = InsightFilter(pipeline_id, execution_id, unresolved_only, after)
    return insights.part(installation.database, wanted, skip, limit)


def _catch_up(installation: Installation) -> None:
    """What has ended since may bring new ones, or have resolved some."""
    installation.knowledge.catch_up(batches=BATCHES)
    now = utc_now()
    if insights.count(installation.database, InsightFilter(unresolved_only=True)):
        with installation.database.write() as connection:
            insights.resolve_older(connection, ERROR_BURST, now - BURST_LASTS, now)
