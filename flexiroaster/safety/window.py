"""A window of bounded size over the last 30 days that counts a pipeline's finished and failed runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexiroaster.safety.runs import DAY, HOUR

__all__ = ["OutcomeWindow"]

SPAN = 30 * DAY
MOST_POINTS = 1500
"""Beyond this number, points are merged by the hour, which leaves at most 721."""


@dataclass(slots=True)
class OutcomeWindow:
    """Finished runs of the last 30 days, oldest first, as points (time, runs, failed).

    A point is one run until there are more than 1,500; then the points of each clock hour are merged into one, at the
    time of the latest. So rates are exact up to 1,500 runs in 30 days (one every 29 minutes); beyond that, the error is
    limited to the runs within one hour at the window's edge.
    """

    points: list[tuple[float, int, int]] = field(default_factory=list)

    def add(self, at: float, *, failed: bool) -> None:
        """Count one finished run; runs must be added in the order of their end times."""
        self.points.append((at, 1, int(failed)))
        if len(self.points) > MOST_POINTS:
            self._merge(at)

    def counts(self, now: float, days: float) -> tuple[int, int]:
        """Return the number of runs that ended in the `days` before `now`, and how many of them failed."""
        since, runs, failed = now - days * DAY, 0, 0
        for at, n, bad in reversed(self.points):
            if at < since:
                break
            runs += n
            failed += bad
        return runs, failed

    def _merge(self, now: float) -> None:
        merged: list[tuple[float, int, int]] = []
        for at, n, bad in self.points:
            if at < now - SPAN:
                continue
            same_hour = merged and merged[-1][0] // HOUR == at // HOUR
            _, runs, failed = merged.pop() if same_hour else (at, 0, 0)
            merged.append((at, runs + n, failed + bad))
        self.points = merged
