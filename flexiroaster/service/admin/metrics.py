"""Summary metrics of an installation over the last 30 days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.service.installation import Installation
from flexiroaster.store import metrics

__all__ = ["DAYS", "Metrics", "read"]

DAYS = 30
"""The period of the metrics in days."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The current pipelines, and the executions created in the last DAYS days.

    `success_rate` is the percentage of completed executions among those that completed or failed, 0 if there are none.
    `avg_duration` is the mean time from start to end of completed executions, in seconds.
    """

    total_pipelines: int
    active_pipelines: int
    total_executions: int
    successful_executions: int
    failed_executions: int
    success_rate: float
    avg_duration: float | None


def read(installation: Installation) -> Metrics:
    """Read the current metrics, in two SQL statements. Raises StoreError."""
    known = metrics.pipeline_figures(installation.database)
    ran = metrics.execution_figures(installation.database, utc_now() - timedelta(days=DAYS))
    completed = ran.by_status.get(ExecutionStatus.COMPLETED, 0)
    failed = ran.by_status.get(ExecutionStatus.FAILED, 0)
    return Metrics(
        total_pipelines=known.total,
        active_pipelines=known.active,
        total_executions=sum(ran.by_status.values()),
        successful_executions=completed,
        failed_executions=failed,
        success_rate=round(100 * completed / (completed + failed), 2) if completed + failed else 0.0,
        avg_duration=ran.mean_duration,
    )
