"""Figures of an installation: summary metrics over 30 days, health checks, and counters for Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from flexiroaster.coordination.redis.heartbeats import DatabaseState, Health
from flexiroaster.coordination.redis.link import RedisState
from flexiroaster.errors import FlexiRoasterError, NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.model.paging import Window
from flexiroaster.model.pipeline import Stage
from flexiroaster.operators.registry import operator_of
from flexiroaster.safety.policy import Action, RiskLevel
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow, ExecutionSort, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.pipelines import definition
from flexiroaster.store import leases
from flexiroaster.store.database import Database
from flexiroaster.store.executions import LARGE, execution_statistics
from flexiroaster.store.pipelines import pipeline_totals
from flexiroaster.store.safety import decisions, risk
from flexiroaster.store.sql import cursor_of

__all__ = [
    "DAYS",
    "PROBABILITIES",
    "SECONDS",
    "Counts",
    "ExecutionCounters",
    "Histogram",
    "LeaseLosses",
    "Metrics",
    "Report",
    "ServiceReport",
    "Status",
    "check",
    "live",
    "read",
]


DAYS = 30
"""The period of the metrics in days."""

SECONDS = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the duration buckets in seconds; the last bucket is unbounded."""

PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Upper bounds of the probability buckets; they include the default thresholds of medium and high risk."""

SETTLE_TIME = timedelta(seconds=5)
"""More recent changes wait for the next update, because another process may still write earlier ones."""

_PAGE = 500
_MAX_PAGES = 20

SKEW = timedelta(seconds=5)
"""Maximum clock skew between workers and this process."""


# --- summary ---------------------------------------------------------------------------------------------------------


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
    known = pipeline_totals(installation.database)
    ran = execution_statistics(installation.database, utc_now() - timedelta(days=DAYS))
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


# --- health, for people and orchestrators: nothing here raises -------------------------------------------------------


class Status(StrEnum):
    """The health of a service or of the installation."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """The health of one service: its status, the latency of its answer in milliseconds (if measured), and details."""

    status: Status
    latency_ms: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The health of the installation: healthy if the database answers and all threads of this process work.

    Redis is not required. The executor is unhealthy if this process cannot drive executions, and degraded if one of its
    other threads fails.
    """

    database: ServiceReport
    redis: ServiceReport
    executor: ServiceReport

    @property
    def status(self) -> Status:
        """The overall status: healthy or degraded."""
        ok = self.database.status is Status.HEALTHY and self.executor.status is Status.HEALTHY
        return Status.HEALTHY if ok else Status.DEGRADED

    @property
    def ready(self) -> bool:
        """Whether this process can serve requests now."""
        return self.database.status is Status.HEALTHY and self.executor.status is not Status.UNHEALTHY


def check(installation: Installation) -> Report:
    """Check the database, Redis and the driver of this process. Waits for a database that does not answer."""
    try:
        found = installation.signals.health()
    except FlexiRoasterError as error:  # the database was never reached, or has another schema version
        configured = bool(installation.settings.redis_url)
        redis = RedisState(configured=configured, available=False, fallback_mode=True)
        found = Health(DatabaseState(available=False, error=error.message), redis)
    return Report(_database(installation, found.database), _redis(found.redis), _executor(installation))


def _database(installation: Installation, state: DatabaseState) -> ServiceReport:
    if not state.available:
        return ServiceReport(Status.UNHEALTHY, details={"error": state.error})
    return ServiceReport(Status.HEALTHY, state.latency_ms, {"dialect": installation.database.engine.dialect.name})


def _redis(state: RedisState) -> ServiceReport:
    details = {
        "configured": state.configured,
        "fallback_mode": state.fallback_mode,
        "since": None if state.since is None else state.since.isoformat(),
        "error": state.last_error,
    }
    status = Status.HEALTHY if state.available else Status.DEGRADED
    return ServiceReport(status, state.latency_ms, details)


def _executor(installation: Installation) -> ServiceReport:
    alive, failures = installation.healthy, installation.failures
    driven = len(installation.driver.driven) if installation.is_driving and alive else 0
    details = {"owner": installation.owner, "started": installation.is_driving, "executions": driven}
    details["failing"] = {failure.name: failure.error for failure in failures}
    if not alive or any(failure.essential for failure in failures):
        return ServiceReport(Status.UNHEALTHY, details=details)
    return ServiceReport(Status.DEGRADED if failures else Status.HEALTHY, details=details)


# --- Prometheus counters and histograms, counted since this process started ------------------------------------------


class Histogram:
    """A histogram: the number of values in each bucket, including one beyond the last bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Counts:
    """The counters and histograms.

    Ended executions by status, stage retries and durations by operator, lease losses, decisions by chosen and taken
    action, and failure probabilities of started executions by risk level.
    """

    lease_losses: int = 0
    executions: Counter[ExecutionStatus] = field(default_factory=lambda: Counter(dict.fromkeys(sorted(TERMINAL), 0)))
    retries: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Histogram] = field(default_factory=dict)
    decisions: Counter[tuple[str, str]] = field(
        default_factory=lambda: Counter({(action.value, action.value): 0 for action in Action})
    )
    risks: dict[str, Histogram] = field(
        default_factory=lambda: {level.value: Histogram(PROBABILITIES) for level in RiskLevel}
    )


class ExecutionCounters:
    """Monotonic counters over the executions of an installation. Thread-safe."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lock = threading.Lock()
        start = utc_now()
        self._ended = _ExecutionScan(installation, ExecutionSort.COMPLETED_FIRST, start, lambda row: row.completed_at)
        self._started = _ExecutionScan(installation, ExecutionSort.OLDEST, start, lambda row: row.created_at)
        self._losses = LeaseLosses(start)
        self._decided_until = start
        self._counts = Counts()

    def catch_up(self) -> Counts:
        """Count the changes since the last call and return a copy of the counts.

        If the last call was long ago, only part of the changes are counted and later calls count the rest.
        Raises StoreError.
        """
        with self._lock:
            until = utc_now() - SETTLE_TIME
            self._ended.each(until, self._count_ended)
            self._started.each(until, self._count_risks)
            self._losses.update(self._installation.database)
            self._count_decisions(until)
            self._counts.lease_losses = self._losses.count
            return deepcopy(self._counts)

    def _count_decisions(self, until: datetime) -> None:
        """Count the decisions since the last call, by chosen and taken action."""
        if until > self._decided_until:
            self._counts.decisions.update(
                decisions.count_by_action(self._installation.database, self._decided_until, until)
            )
            self._decided_until = until

    def _count_ended(self, ended: Sequence[ExecutionRow]) -> None:
        found = executions.stages_by_execution(self._installation, [row.id for row in ended])
        operators = {row.id: self._operators(row) for row in ended}
        for row in ended:
            self._counts.executions[row.status] += 1
            self._count_stages(operators[row.id], found.get(row.id, ()))

    def _count_risks(self, started: Sequence[ExecutionRow]) -> None:
        for level, probability in risk.probabilities(self._installation.database, [row.id for row in started]):
            self._counts.risks[level].add(probability)

    def _count_stages(self, operators: dict[str, str], stages: Sequence[StageRow]) -> None:
        for stage in stages:
            operator = operators[stage.stage_id]
            self._counts.retries[operator] += max(0, stage.attempt - 1)
            if stage.duration is not None:
                self._counts.stages.setdefault(operator, Histogram(SECONDS)).add(max(0.0, stage.duration))

    def _operators(self, row: ExecutionRow) -> dict[str, str]:
        pipeline = definition(self._installation, row.pipeline_id, row.revision)
        return {stage.id: _operator(stage) for stage in pipeline.stages}


class LeaseLosses:
    """A monotonic counter of executions taken over from a worker whose lease had expired, read from events.

    Call `update` from one thread at a time. Each update reads the new events of executions that were claimed at least
    twice. It misses two cases: a worker that was lost before it wrote the takeover event, and a loss during a rollback
    of an execution that had ended earlier, if that rollback started and ended between two updates.
    """

    def __init__(self, start: datetime) -> None:
        self.count = 0
        self._updated_at = start
        self._seen: dict[str, int] = {}

    def update(self, database: Database) -> None:
        """Count the losses since the last update. Raises StoreError."""
        now, since = utc_now(), self._updated_at - SKEW
        # a longer period, so that no execution already seen counts as new
        found = leases.claimed_again(database, since - SKEW)
        grown = {i: (self._seen[i], last) for i, last in found.items() if last > self._seen.get(i, last)}
        new = {i: (0, last) for i, last in found.items() if i not in self._seen}
        self.count += leases.count_take_overs(database, grown) + leases.count_take_overs(database, new, since)
        self._seen, self._updated_at = found, now


class _ExecutionScan:
    """An iterator over executions in an order by time; each is visited once."""

    def __init__(
        self,
        installation: Installation,
        sort: ExecutionSort,
        begin: datetime,
        time: Callable[[ExecutionRow], datetime | None],
    ) -> None:
        self._installation = installation
        self._sort = sort
        self._time = time
        self._after = cursor_of(sort.value, begin, "")

    def each(self, until: datetime, count: Callable[[Sequence[ExecutionRow]], None]) -> None:
        """Pass the executions up to `until` to `count`, page by page; a failed page is repeated. Raises StoreError."""
        for _ in range(_MAX_PAGES):
            window = Window(first=_PAGE, after=self._after)
            page = executions.page(self._installation, ExecutionFilter(), self._sort, window, LARGE)
            rows = [row for row in page.items if (at := self._time(row)) is not None and at <= until]
            if rows:
                count(rows)
                self._after = self._sort.value.cursor(rows[-1])
            if len(rows) < _PAGE:
                return


def _operator(stage: Stage) -> str:
    """Return the name of a stage's operator, even if only workers have installed its package."""
    try:
        return operator_of(stage.type, stage.config)
    except NotFoundError:
        return f"{stage.type}.unknown"


def live(installation: Installation) -> dict[ExecutionStatus, int]:
    """Count the executions that are pending, running and paused now. Raises StoreError."""
    states = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)
    return {state: executions.count(installation, ExecutionFilter(statuses=(state,))) for state in states}
