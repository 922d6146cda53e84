"""Backtests: replay a history without looking ahead, and measure the predicted risks or the late-stage alerts.

Metrics of predictions cover the newest 30 % of runs by start time; earlier runs only serve as training data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flexiroaster.safety.anomaly.stages import ExecutionPace, Lateness, PipelinePace
from flexiroaster.safety.learning.evaluation import Drift, Metrics, drift, measure
from flexiroaster.safety.learning.replay import Learned, replay_learning
from flexiroaster.safety.policy import Thresholds
from flexiroaster.safety.risk.factors import FEATURES, factor_score, features
from flexiroaster.safety.risk.history import History, HistoryFileError, replay
from flexiroaster.safety.risk.model import Rung
from flexiroaster.safety.risk.state import DAY

__all__ = ["ARMS", "Arm", "Backtest", "LatenessBacktest", "backtest", "backtest_lateness"]


Floats = NDArray[np.float64]

ARMS = ("factor_score", "prior", "recalibrated_prior", "local", "engine")
"""The forecasters compared. `local` is the newest local model, promoted or not; `engine` is the engine's own answer."""

COLD = 10
"""A pipeline with fewer earlier runs counts as new."""

SPIKE = 3.0
"""How many times its duration a stage would have taken; the backtest counts how many of these would be noticed."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One forecaster's metrics over all runs it predicted and over new pipelines, and its alerts at high risk."""

    name: str
    all: Metrics | None
    cold: Metrics | None
    alerts_per_day: float


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """The decisions of a gate that blocks at high risk, over the runs with a known outcome.

    `rightly`: blocked, and would have failed. `wrongly`: blocked, and would have completed. `missed`: admitted, and
    failed. `passed`: admitted, and completed. A pipeline without a finished run is always admitted.
    """

    rightly: int
    wrongly: int
    missed: int
    passed: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """The result of a backtest: metrics, gate decisions, learning history and every prediction."""

    executions: int
    pipelines: int
    first_start: float
    judged_from: float
    arms: tuple[Arm, ...]
    gate: GateOutcome
    chosen: dict[str, int]
    drift: Drift
    learned: Learned
    predictions: pl.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, without the individual predictions."""
        return {
            "executions": self.executions,
            "pipelines": self.pipelines,
            "from": _time(self.first_start),
            "judged_from": _time(self.judged_from),
            "arms": [asdict(arm) for arm in self.arms],
            "gate": asdict(self.gate),
            "chosen": self.chosen,
            "drift": {**asdict(self.drift), "drifting": self.drift.drifting},
            "steps": [{"at": _time(at), "reason": reason} for at, reason in self.learned.steps],
            "trainings": [
                {"examples": t.examples, "promoted": t.promoted, "reason": t.reason, "data_hash": t.data_hash}
                for t in self.learned.trainings
            ],
            "model_version": self.learned.model.version,
        }


def backtest(history: History, thresholds: Thresholds | None = None, *, share: float = 0.3, seed: int = 0) -> Backtest:
    """Replay a history and evaluate its newest `share` of runs (0 < share <= 1)."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be greater than 0 and at most 1, not {share}")
    rows, scores, earlier_runs = _known_at_starts(history)
    learned = replay_learning(history, rows, seed=seed)
    predicted = {
        "factor_score": scores,
        "prior": learned.predictions[Rung.PRIOR],
        "recalibrated_prior": learned.predictions[Rung.RECALIBRATED],
        "local": learned.challenger,
        "engine": learned.champion,
    }
    begin = min(int((1 - share) * len(history)), len(history) - 1)
    judged = (np.arange(len(history)) >= begin) & ~np.isnan(history.target)
    part = _Evaluated(history, judged, earlier_runs, (thresholds or Thresholds()).high)
    return Backtest(
        executions=len(history),
        pipelines=len(set(history.pipeline_id)),
        first_start=float(history.started_at[0]),
        judged_from=float(history.started_at[begin]),
        arms=tuple(part.arm(name, predicted[name]) for name in ARMS),
        gate=part.blocked(learned.champion),
        chosen={rung.value: learned.rung[begin:].count(rung) for rung in Rung},
        drift=drift(learned.champion[judged], history.target[judged]),
        learned=learned,
        predictions=_predictions(history, earlier_runs, predicted, learned, begin),
    )


def _known_at_starts(history: History) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the features, the factor score and the number of earlier runs known at each run start."""
    rows = np.empty((len(history), len(FEATURES)))
    scores, earlier_runs = np.empty(len(history)), np.empty(len(history), dtype=np.int64)
    for i, (start, past) in enumerate(replay(history)):
        rows[i] = features(start, past)
        scores[i] = factor_score(start, past.pipeline).score
        earlier_runs[i] = past.pipeline.runs
    return rows, scores, earlier_runs


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """The part of a history that the metrics cover."""

    history: History
    rows: NDArray[np.bool_]
    earlier_runs: NDArray[np.int64]
    high: float

    def arm(self, name: str, predicted: Floats) -> Arm:
        answered = self.rows & ~np.isnan(predicted)
        cold = answered & (self.earlier_runs < COLD)
        alerts = int((predicted[answered] >= self.high).sum())
        return Arm(name, self._measure(predicted, answered), self._measure(predicted, cold), alerts / self._days())

    def blocked(self, predicted: Floats) -> GateOutcome:
        stopped = (predicted[self.rows] >= self.high) & (self.earlier_runs[self.rows] > 0)
        failed = self.history.target[self.rows] > 0
        counts = (stopped & failed, stopped & ~failed, ~stopped & failed, ~stopped & ~failed)
        return GateOutcome(*(int(c.sum()) for c in counts))

    def _measure(self, predicted: Floats, which: NDArray[np.bool_]) -> Metrics | None:
        names = [self.history.pipeline_id[i] for i in np.flatnonzero(which)]
        return measure(predicted[which], self.history.target[which], names)

    def _days(self) -> float:
        times = self.history.started_at[self.rows]
        return max(float(times[-1] - times[0]) / DAY, 1.0) if len(times) else 1.0


def _predictions(
    history: History, earlier_runs: NDArray[np.int64], predicted: dict[str, Floats], learned: Learned, begin: int
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "execution_id": history.execution_id or [None] * len(history),
            "pipeline_id": history.pipeline_id,
            "started_at": pl.Series((history.started_at * 1e6).astype(np.int64)).cast(pl.Datetime("us", "UTC")),
            "status": [outcome.value for outcome in history.outcome],
            "earlier_runs": earlier_runs,
            **{name: pl.Series(values).fill_nan(None) for name, values in predicted.items()},
            "rung": [rung.value for rung in learned.rung],
            "judged": np.arange(len(history)) >= begin,
        },
        schema_overrides={"execution_id": pl.String},
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


# --- late-stage detection ---


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
        execution = ExecutionPace(paces[pipeline_id])
        for stage, seconds in rows:
            known = levels[pipeline_id, stage]
            limit = known.limit(execution).late_s
            found = known.ended(seconds, execution)
            counts["stages"] += 1
            counts["watched"] += limit is not None
            counts["spikes_caught"] += limit is not None and SPIKE * seconds > limit
            counts["flagged"] += found is not None
            counts["alerts"] += found is not None and found.alert
        execution.pipeline.add(execution.pace)
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
