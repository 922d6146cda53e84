"""The runner with real processes: what an attempt gives, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Access
from flexiroaster.workers.error_classes import describe
from flexiroaster.workers.protocol import Progress
from tests.integration.runner_bench import Bench, error


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as opened:
        yield opened


# --- what an attempt gives -------------------------------------------------------------------------------------------


def test_a_table_becomes_an_artifact(bench: Bench) -> None:
    output = bench.run("numbers", count=4).output
    assert output is not None
    path = bench.artifacts / "e1" / "stage.0.1.arrow"
    assert output["url"] == str(path)
    assert (output["rows"], output["columns"], output["bytes"]) == (4, 2, path.stat().st_size)
    assert output["schema"] == {"n": "Int64", "text": "String"}
    assert pl.read_ipc(path).get_column("n").to_list() == [0, 1, 2, 3]


def test_a_table_goes_downstream(bench: Bench) -> None:
    first = bench.run_task(bench.task("numbers", stage_id="first"))
    assert first.output is not None
    second = bench.run_task(bench.task("doubled", stage_id="second", inputs={"first": first.output}))
    assert second.output is not None
    assert pl.read_ipc(second.output["url"]).get_column("n").to_list() == [0, 2, 4]


def test_no_table_no_artifact(bench: Bench) -> None:
    assert bench.run("nothing").output == {}
    assert not list(bench.artifacts.glob("e1/*"))


def test_a_stage_without_a_table_is_no_input(bench: Bench) -> None:
    task = bench.task("nothing", stage_type="transform", inputs={"before": {}})
    passthrough = bench.task("", config={"operation": "passthrough"}, inputs={"before": {}})
    assert bench.run_task(task).output == {}
    assert error(bench.run_task(passthrough)) == (
        "configuration",
        "too few input tables: 0, at least 1 needed; stages without a table: 'before'",
    )


def test_an_unchanged_table_is_not_copied(bench: Bench) -> None:
    first = bench.run_task(bench.task("numbers", stage_id="first"))
    assert first.output is not None
    second = bench.run_task(
        bench.task("", stage_id="second", config={"operation": "passthrough"}, inputs={"first": first.output})
    )
    assert second.output == first.output
    assert [file.name for file in bench.artifacts.glob("e1/*")] == ["first.0.1.arrow"]


def test_an_artifact_that_is_gone(bench: Bench) -> None:
    first = bench.run_task(bench.task("numbers", stage_id="first"))
    assert first.output is not None
    path = Path(first.output["url"])
    path.unlink()
    end = bench.run_task(bench.task("doubled", stage_id="second", inputs={"first": first.output}))
    text = f"the artifact of stage 'first' cannot be used: {path}: the file does not exist"
    assert error(end) == ("configuration", text)
    assert end.error is not None
    assert end.error["details"] == {"artifact_of": "first", "url": str(path)}


def test_the_scratch_folder_is_emptied(bench: Bench) -> None:
    first, second = bench.start("writes_scratch"), bench.start("writes_scratch")
    bench.end_of(first)
    bench.end_of(second)
    assert bench.texts(first) == bench.texts(second)
    (folder,) = bench.texts(first)
    assert list(Path(folder).iterdir()) == []


def test_progress(bench: Bench) -> None:
    key = bench.start("reports_progress")
    bench.end_of(key)
    told = [message for message in bench.messages if isinstance(message, Progress)]
    assert told == [Progress(key, 0.25, "a quarter"), Progress(key, 1.0, "done")]


# --- what a stage says -----------------------------------------------------------------------------------------------


def test_everything_said_is_logged(bench: Bench) -> None:
    before = datetime.now(UTC)
    key = bench.start("prints_in_every_way")
    bench.end_of(key)
    lines = {log.message: log for log in bench.logs(key)}
    told = {(log.level, log.logger, log.message) for log in bench.logs(key)}
    assert {
        ("info", "stdout", "printed"),
        ("info", "stdout", "half a line"),
        ("info", "stdout", "100 %"),
        ("warning", "stderr", "problem"),
        ("info", "library", "told"),
        ("debug", "flexiroaster.stage", "detail 7"),
        ("error", "library", "went wrong"),
        ("info", "stdout", "from below"),
        ("info", "stdout", "from a child"),
        ("info", "stdout", "no end"),
    } <= told
    assert "not told" not in lines
    assert any(text.startswith("UserWarning: careful (") and text.endswith(")") for text in lines)
    assert (lines["went wrong"].traceback or "").endswith("LookupError: inner")
    assert lines["printed"].traceback is None
    assert before <= lines["printed"].at <= datetime.now(UTC)


def test_the_same_is_said_again_by_the_next_attempt(bench: Bench) -> None:
    first, second = bench.start("prints_in_every_way"), bench.start("prints_in_every_way")
    bench.end_of(first)
    bench.end_of(second)
    assert sorted(bench.texts(first)) == sorted(bench.texts(second))


def test_lines_are_shown_while_the_stage_runs(bench: Bench) -> None:
    key = bench.start("prints_then_sleeps", seconds=600)
    bench.said(key, "second")
    assert bench.texts(key) == ["first", "second"]
    bench.runner.kill(key, describe(StageError("enough", ErrorClass.TIMEOUT)))
    bench.end_of(key)


def test_printing_100_mb_is_cut(bench: Bench) -> None:
    key = bench.start("prints", count=1000, size=100_000)
    end = bench.end_of(key)
    assert end.error is None
    lines = bench.logs(key)
    assert lines[0].message == "x" * 8192 + " … [91,808 characters cut]"
    kept = len(lines) - 1
    assert kept * 8192 <= 1024 * 1024 < (kept + 1) * 8192 + 100
    dropped, size = end.log_dropped
    assert dropped == 1000 - kept
    assert lines[-1].level == "warning"
    assert lines[-1].message == f"output truncated: {dropped:,} more lines ({size:,} bytes) dropped"
    assert 100_000_000 - 1024 * 1024 <= size <= 101_000_000


def test_printing_one_line_of_100_mb_is_cut(bench: Bench) -> None:
    key = bench.start("prints", count=1, size=100_000_000)
    end = bench.end_of(key)
    assert bench.texts(key) == ["x" * 8192 + " … [99,991,808 characters cut]"]
    assert end.log_dropped == (0, 99_991_808)


def test_writing_100_mb_to_the_descriptor_is_cut(bench: Bench) -> None:
    key = bench.start("prints_raw", count=100_000, size=1000)
    end = bench.end_of(key)
    assert end.error is None
    kept = 1024 * 1024 // 999
    assert bench.texts(key)[:-1] == ["x" * 999] * kept
    assert end.log_dropped[0] == 100_000 - kept
    assert bench.texts(key)[-1].startswith(f"output truncated: {100_000 - kept:,} more lines (")


def test_many_short_lines_are_cut(bench: Bench) -> None:
    key = bench.start("prints", count=5000, size=1)
    end = bench.end_of(key)
    assert bench.texts(key)[:-1] == ["x"] * 2000
    assert end.log_dropped == (3000, 6000 - 1)  # the first dropped line had lost its newline already


def test_secrets_are_hidden(tmp_path: Path) -> None:
    access = Access(python_modules=("tests.functions",), secrets={"TOKEN": "s3cr3t-value"})
    with Bench(tmp_path, access=access) as bench:
        key = bench.start("fails_with", secret="s3cr3t-value")
        end = bench.end_of(key)
        assert bench.texts(key) == ["using ***"]
        assert error(end) == ("unknown", "refused: ***")
        assert "s3cr3t-value" not in str(end)
