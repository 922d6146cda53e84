"""Import and export of the run history as parquet or CSV, other systems' past runs included, and backtests of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flexiroaster.errors import InputError
from flexiroaster.safety.risk.history import History, history_frame, read_history, read_stages
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety import training
from flexiroaster.service.safety.history_projection import refold_all
from flexiroaster.store.safety import history as run_history
from flexiroaster.store.safety import risk
from flexiroaster.store.safety.history import PastRun

if TYPE_CHECKING:
    from flexiroaster.safety.learning.backtest import Backtest, LatenessBacktest
    from flexiroaster.safety.policy import Thresholds

__all__ = ["Imported", "add", "backtest_file", "backtest_stages", "export", "import_file", "write_predictions"]


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: the number of new runs, of already known runs, and of all runs in the history."""

    added: int
    known: int
    total: int


def import_file(installation: Installation, path: Path) -> Imported:
    """Import the runs of a file into the history as `add` does; runs that already exist are skipped.

    Raises HistoryFileError (the file), ConflictError, StoreError.
    """
    return add(installation, _runs_of(read_history(path)))


def add(installation: Installation, runs: Sequence[PastRun]) -> Imported:
    """Add runs to the history, and relearn from all of it as if the engine had been on at the time.

    The states reflect all runs in the order of their ends, and the model goes through the same trainings
    (`training.replay`). If AI_TRAIN_EVERY turns off automatic training, the next training does this instead.
    Raises ConflictError if a training is in progress, StoreError.
    """
    with training.training_lease(installation):
        installation.risk_state.catch_up()
        with installation.database.write() as connection:
            risk.locked_progress(connection)  # no other process adds runs until these are in
            new = run_history.missing(connection, runs)
            run_history.add(connection, new)
            run_history.refresh_statistics(connection)
            total = refold_all(connection, installation.settings.ai_anomaly_error_threshold)
        installation.risk_state.catch_up()
        if new and installation.settings.ai_train_every != 0:
            training.replay(installation)
    return Imported(len(new), len(runs) - len(new), total)


def export(installation: Installation, path: Path) -> int:
    """Write all finished runs, ordered by their ends, to a .parquet or .csv file; return their number.

    Raises InputError (unsupported file name, unwritable path), StoreError.
    """
    kind = path.suffix.lower()
    if kind not in {".parquet", ".csv"}:
        raise InputError(f"{path}: a history must be a .parquet or .csv file")
    installation.risk_state.catch_up()
    with installation.database.read() as connection:
        frame = history_frame(training.history_of(list(run_history.in_order(connection))))
    try:
        frame.write_parquet(path) if kind == ".parquet" else frame.write_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return len(frame)


def _runs_of(history: History) -> list[PastRun]:
    columns = zip(
        history.pipeline_id,
        history.started_at.tolist(),
        history.finished_at.tolist(),
        history.outcome,
        history.duration_s,
        history.n_stages,
        history.execution_id or (),
        strict=True,
    )
    return [
        PastRun(name, _time(finished), pipeline_id, _time(started), outcome.value, seconds, stages, imported=True)
        for pipeline_id, started, finished, outcome, seconds, stages, name in columns
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- backtests, which need no database ---


def backtest_file(path: Path, thresholds: Thresholds | None = None, seed: int = 0) -> Backtest:
    """Backtest the runs of a file. Raises HistoryFileError, InputError (the extra `safety` is not installed)."""
    from flexiroaster.safety.learning.backtest import backtest

    if not training.can_train():
        raise InputError("a backtest requires the extra safety: pip install 'flexiroaster[safety]'")
    return backtest(read_history(path), thresholds, seed=seed)


def backtest_stages(path: Path, stages: Path) -> LatenessBacktest:
    """Backtest late-stage detection on the stage durations of the runs in a file. Raises HistoryFileError."""
    from flexiroaster.safety.learning.backtest import backtest_lateness

    return backtest_lateness(read_history(path), read_stages(stages))


def write_predictions(result: Backtest, path: Path) -> None:
    """Write the prediction made before each run to a parquet file. Raises InputError."""
    if path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: predictions can only be written to a .parquet file")
    try:
        result.predictions.write_parquet(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
