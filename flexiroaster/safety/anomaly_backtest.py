"""Backtest of late-stage detection: replays stage durations to count flagged stages and the spikes it would catch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from flexiroaster.safety.anomaly.lateness import ExecutionPace, Lateness, PipelinePace
from flexiroaster.safety.history_file import HistoryFileError
from flexiroaster.safety.risk.history import History

__all__ = ["SPIKE", "LatenessBacktest", "backtest_lateness"]

SPIKE = 3.0


@dataclass(frozen=True, slots=True)
class LatenessBacktest:
    """Counts of completed stages: all, those with a limit (`watched`), those over it (`flagged`), and the `alerts`.

    `spikes_caught`: how many watched stages would have been flagged if they had taken three times as long.
    """

    stages: int
    watched: int
    flagged: int
    alerts: int
    spikes_caught: int


def backtest_lateness(history: History, stages: pl.DataFrame) -> LatenessBacktest:
    """Replay the stages of a history's executions, ordered by execution start, then by row in the file.

    Raises HistoryFileError if no stage refers to an execution in the history.
    """
    counts = dict.fromkeys(("stages", "watched", "flagged", "alerts", "spikes_caught"), 0)
    levels: defaultdict[tuple[str, str], Lateness] = defaultdict(Lateness)
    paces: defaultdict[str, PipelinePace] = defaultdict(PipelinePace)
    for pipeline_id, rows in _executions(history, stages):
        execution, pipeline = ExecutionPace(), paces[pipeline_id]
        for stage, seconds in rows:
            known = levels[pipeline_id, stage]
            limit = known.limit(execution, pipeline).late_s
            found = known.ended(seconds, execution, pipeline)
            counts["stages"] += 1
            counts["watched"] += limit is not None
            counts["spikes_caught"] += limit is not None and SPIKE * seconds > limit
            counts["flagged"] += found is not None
            counts["alerts"] += found is not None and found.alert
        pipeline.add(execution.pace)
    return LatenessBacktest(**counts)


def _executions(history: History, stages: pl.DataFrame) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Yield the pipeline and completed stages of each execution, ordered by start."""
    completed = stages.filter((pl.col("status") == "completed") & pl.col("duration_s").is_not_null())
    rows: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for execution_id, stage, seconds in completed.select("execution_id", "stage", "duration_s").iter_rows():
        rows[execution_id].append((stage, seconds))
    known = set(history.execution_id or ())
    if not known & rows.keys():
        raise HistoryFileError("no stage refers to an execution in the history (column execution_id)")
    for execution_id, pipeline_id in zip(history.execution_id or (), history.pipeline_id, strict=True):
        if execution_id in rows:
            yield pipeline_id, rows[execution_id]
