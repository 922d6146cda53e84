"""Backtests: replay a file of past runs as if the safety engine had been on. No database is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flexiroaster.errors import InputError
from flexiroaster.safety.history_file import read_history, read_stages

if TYPE_CHECKING:
    from flexiroaster.safety.anomaly_backtest import LatenessBacktest
    from flexiroaster.safety.gate import Thresholds
    from flexiroaster.safety.learning.backtest import Backtest

__all__ = ["anomalies", "of_file", "write_predictions"]


def of_file(path: Path, thresholds: Thresholds | None = None, seed: int = 0) -> Backtest:
    """Backtest the runs of a file. Raises HistoryFileError, InputError (the extra `safety` is not installed)."""
    try:
        from flexiroaster.safety.learning.backtest import backtest
    except ImportError as error:
        raise InputError("a backtest requires the extra safety: pip install 'flexiroaster[safety]'") from error

    return backtest(read_history(path), thresholds, seed=seed)


def anomalies(path: Path, stages: Path) -> LatenessBacktest:
    """Backtest late-stage detection on the stage durations of the runs in a file. Raises HistoryFileError."""
    from flexiroaster.safety.anomaly_backtest import backtest_lateness

    return backtest_lateness(read_history(path), read_stages(stages))


def write_predictions(result: Backtest, path: Path) -> None:
    """Write the prediction made before each run to a parquet file. Raises InputError."""
    if path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: predictions can only be written to a .parquet file")
    try:
        result.predictions.write_parquet(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
