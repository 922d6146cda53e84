"""Prometheus counters and histograms over executions, counted since this process started.

All values are read from the database, so a process that drives nothing also counts the work of the workers. Each update
reads only the executions that started, ended or lost their lease since the last one.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.model.pipeline import Stage
from flexiroaster.operators.registry import operator_of
from flexiroaster.safety.gate import RiskLevel
from flexiroaster.safety.policy import Action
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow, ExecutionSort, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.lease_losses import LeaseLosses
from flexiroaster.service.paging import Window
from flexiroaster.service.pipelines import definition
from flexiroaster.store import assessments
from flexiroaster.store.safety import decisions

__all__ = ["PROBABILITIES", "SECONDS", "Counts", "Histogram", "Tallies", "live"]

SECONDS = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the duration buckets in seconds; the last bucket is unbounded."""

PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Upper bounds of the probability buckets; they include the default thresholds of medium and high risk."""

SETTLED = timedelta(seconds=5)
"""More recent changes wait for the next update, because another process may still write earlier ones."""

_AT_A_TIME = 500
_LOOKS = 20
_LARGE = frozenset({"variables", "error"})


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


class Tallies:
    """Monotonic counters over the executions of an installation. Thread-safe."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lock = threading.Lock()
        begun = utc_now()
        self._ended = _Passing(installation, ExecutionSort.COMPLETED_FIRST, begun, lambda row: row.completed_at)
        self._started = _Passing(installation, ExecutionSort.OLDEST, begun, lambda row: row.created_at)
        self._losses = LeaseLosses(begun)
        self._decided_until = begun
        self._counts = Counts()

    def catch_up(self) -> Counts:
        """Count the changes since the last call and return a copy of the counts.

        If the last call was long ago, only part of the changes are counted and later calls count the rest.
        Raises StoreError.
        """
        with self._lock:
            until = utc_now() - SETTLED
            self._ended.each(until, self._count_ended)
            self._started.each(until, self._count_risks)
            self._losses.look(self._installation.database)
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
        for level, probability in assessments.probabilities(self._installation.database, [row.id for row in started]):
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


class _Passing:
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
        self._behind = executions.cursor_at(begin, sort)

    def each(self, until: datetime, count: Callable[[Sequence[ExecutionRow]], None]) -> None:
        """Pass the executions up to `until` to `count`, page by page; a failed page is repeated. Raises StoreError."""
        for _ in range(_LOOKS):
            window = Window(first=_AT_A_TIME, after=self._behind)
            page = executions.page(self._installation, None, self._sort, window, _LARGE)
            rows = [row for row in page.items if (at := self._time(row)) is not None and at <= until]
            if rows:
                count(rows)
                self._behind = executions.cursor(rows[-1], self._sort)
            if len(rows) < _AT_A_TIME:
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
