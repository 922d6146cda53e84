"""What executions came to since a process began to count: for systems that collect figures over time.

Everything is read from the database, so that a process that drives nothing counts what the workers did. Each look reads
what has ended since the one before, by key, so that it costs what is new.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import Stage
from flexiroaster.operators.registry import operator_of
from flexiroaster.service import executions
from flexiroaster.service.executions import ExecutionFilter, ExecutionRow, ExecutionSort, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.paging import Window
from flexiroaster.service.pipelines import definition

__all__ = ["BUCKETS", "Durations", "Tallies", "live"]

BUCKETS = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
"""Upper bounds of durations, in seconds; beyond the last there is no bound."""

SETTLED = timedelta(seconds=5)
"""What ended less long ago waits for the next look: another process may be about to write what ended before it."""

_AT_A_TIME = 500
_LOOKS = 20
_LARGE = frozenset({"variables", "error"})


@dataclass(slots=True)
class Durations:
    """A histogram: how many durations in each bucket (the last one has no bound), and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Tallies:
    """Counts that only grow. Thread-safe."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lock = threading.Lock()
        self._behind: str | None = None
        self._begun = utc_now()
        self.executions: Counter[ExecutionStatus] = Counter()
        self.retries: Counter[str] = Counter()
        self.stages: dict[str, Durations] = {}

    def catch_up(self) -> None:
        """Count what has ended since the last look; after a long silence only a part, the rest with the next look.

        Raises StoreError.
        """
        with self._lock:
            until = utc_now() - SETTLED
            for _ in range(_LOOKS):
                if not self._count(until):
                    return

    def _count(self, until: datetime) -> bool:
        """Count a page; whether there may be another one."""
        ended = self._next(until)
        found = executions.stages_by_execution(self._installation, [row.id for row in ended])
        for row in ended:
            self.executions[row.status] += 1
            self._count_stages(row, found.get(row.id, ()))
            self._behind = executions.cursor(row, ExecutionSort.COMPLETED_FIRST)
        return len(ended) == _AT_A_TIME

    def _next(self, until: datetime) -> list[ExecutionRow]:
        cursor = self._behind or executions.cursor_at(self._begun, ExecutionSort.COMPLETED_FIRST)
        window = Window(first=_AT_A_TIME, after=cursor)
        page = executions.page(self._installation, None, ExecutionSort.COMPLETED_FIRST, window, _LARGE)
        return [row for row in page.items if row.completed_at is not None and row.completed_at <= until]

    def _count_stages(self, row: ExecutionRow, stages: Sequence[StageRow]) -> None:
        pipeline = definition(self._installation, row.pipeline_id, row.revision)
        operators = {stage.id: _operator(stage) for stage in pipeline.stages}
        for stage in stages:
            operator = operators[stage.stage_id]
            self.retries[operator] += max(0, stage.attempt - 1)
            if stage.duration is not None:
                self.stages.setdefault(operator, Durations()).add(max(0.0, stage.duration))


def _operator(stage: Stage) -> str:
    """Its operator's name, also where that is another package's, which only workers have."""
    try:
        return operator_of(stage.type, stage.config)
    except NotFoundError:
        return f"{stage.type}.unknown"


def live(installation: Installation) -> dict[ExecutionStatus, int]:
    """How many executions are pending, running and paused now. Raises StoreError."""
    states = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)
    return {state: executions.count(installation, ExecutionFilter(statuses=(state,))) for state in states}
