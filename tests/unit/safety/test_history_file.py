"""Files of past runs: what is read, and what is said about those that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from flexiroaster.safety.learning.backtest import backtest_lateness
from flexiroaster.safety.learning.replay import replay_learning
from flexiroaster.safety.risk.history import HistoryFileError, feature_rows, history_frame, read_history, read_stages
from flexiroaster.safety.risk.state import Outcome
from tests.unit.safety.histories import made_up

HEADER = "pipeline_id,started_at,finished_at,status,duration_s,n_stages\n"
GOOD = "a,2026-01-01T10:00:00Z,2026-01-01T10:05:00Z,completed,300,4\n"


@pytest.fixture
def csv(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "runs.csv"
        path.write_text(text)
        return path

    return write


def test_a_csv_is_read_and_sorted(csv) -> None:
    text = HEADER + GOOD + "b/c,2025-12-31T23:00:00+01:00,2026-01-01T00:00:00Z,FAILED,,\n"
    history = read_history(csv(text))
    assert history.pipeline_id == ["b/c", "a"]
    assert history.outcome == [Outcome.FAILED, Outcome.COMPLETED]
    assert history.started_at[0] == datetime(2025, 12, 31, 22, tzinfo=UTC).timestamp()
    assert history.duration_s == [None, 300.0]
    assert history.n_stages == [None, 4]


def test_a_parquet_without_the_optional_columns(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1)
    frame = {
        "pipeline_id": [7],
        "started_at": [start],
        "finished_at": [start + timedelta(hours=1)],
        "status": ["failed"],
    }
    pl.DataFrame(frame).write_parquet(tmp_path / "runs.parquet")
    history = read_history(tmp_path / "runs.parquet")
    assert history.pipeline_id == ["7"]
    assert history.started_at[0] == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert (history.duration_s, history.n_stages) == ([None], [None])
    assert history.execution_id == read_history(tmp_path / "runs.parquet").execution_id, "named after its content"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipeline_id,status\na,failed\n", "missing column started_at, finished_at; the file has pipeline_id, status"),
        (HEADER, "the file has no rows"),
        (
            HEADER + GOOD + GOOD.replace("completed", "done"),
            'row 2: status "done" is not one of completed, failed, cancelled',
        ),
        (HEADER + GOOD.replace("T10:05", "T09:05"), "row 1: finished_at .* is before started_at"),
        (HEADER + GOOD + GOOD.replace("2026-01-01T10:00:00Z", "soon"), 'row 2: started_at "soon" is not a time'),
        (HEADER + GOOD + "a,2026-01-01T10:00:00Z,,completed,1,1\n", "row 2: finished_at null is not a time"),
        (HEADER + GOOD.replace("300", "-3"), "row 1: duration_s -3 is not a number of 0 or more"),
        (HEADER + GOOD.replace("300", "long"), 'row 1: duration_s "long" is not a number of 0 or more'),
        (HEADER + GOOD.replace("a,", ",", 1) * 3, r"row 1: pipeline_id .* is empty \(3 such rows\)"),
        ("\0\0\0", "missing column|cannot be read"),
    ],
)
def test_a_bad_file_is_told_where_it_is_bad(csv, text: str, message: str) -> None:
    with pytest.raises(HistoryFileError, match=message) as caught:
        read_history(csv(text))
    assert "runs.csv" in caught.value.message
    assert caught.value.code == "history.invalid"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str) -> None:
    history, path = made_up(200), tmp_path / f"runs.{ending}"
    frame = history_frame(history)
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    again = read_history(path)
    for name in ("pipeline_id", "outcome", "duration_s", "n_stages", "execution_id"):
        assert getattr(again, name) == getattr(history, name)
    assert (again.started_at == history.started_at).all()
    assert (again.finished_at == history.finished_at).all()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(HistoryFileError, match=r"a \.parquet or \.csv file"):
        read_history(tmp_path / "runs.xlsx")
    with pytest.raises(HistoryFileError, match="cannot be read"):
        read_history(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(HistoryFileError, match="cannot be read"):
        read_history(tmp_path / "text.parquet")


def test_times_must_be_times(tmp_path: Path) -> None:
    frame = {"pipeline_id": ["a"], "started_at": [1], "finished_at": [2], "status": ["failed"]}
    pl.DataFrame(frame).write_parquet(tmp_path / "runs.parquet")
    with pytest.raises(HistoryFileError, match="column started_at has type Int64, not a date and time"):
        read_history(tmp_path / "runs.parquet")


def test_stages_of_other_executions_are_refused(csv, tmp_path: Path) -> None:
    history = read_history(csv("execution_id," + HEADER + "e1," + GOOD))
    stages = tmp_path / "stages.csv"
    stages.write_text("execution_id,stage,duration_s,status\nother,s,1.5,completed\n")
    with pytest.raises(HistoryFileError, match="no stage refers to an execution in the history"):
        backtest_lateness(history, read_stages(stages))
    stages.write_text("execution_id,stage,duration_s,status\ne1,s,1.5,completed\ne1,t,1,failed\n")
    assert backtest_lateness(history, read_stages(stages)).stages == 1


@pytest.mark.parametrize("with_ids", [True, False])
def test_the_order_of_the_rows_changes_nothing(tmp_path: Path, with_ids: bool) -> None:
    """Many runs start and end at the same moments: what is known at each start, and what is said, stays the same."""
    runs = made_up(600, pipelines=5)
    coarse = replace(runs, started_at=runs.started_at // 7200 * 7200, finished_at=runs.finished_at // 7200 * 7200)
    frame = history_frame(coarse) if with_ids else history_frame(coarse).drop("execution_id")
    said = []
    for seed in range(3):
        frame.sample(fraction=1.0, shuffle=True, seed=seed).write_parquet(tmp_path / "runs.parquet")
        history = read_history(tmp_path / "runs.parquet")
        rows = feature_rows(history)
        learned = replay_learning(history, rows, local=False)
        said.append((history.execution_id, rows.tolist(), learned.champion.tolist()))
    assert said[0] == said[1] == said[2]
