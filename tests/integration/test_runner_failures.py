"""The runner with real processes: every way in which an attempt fails, is cancelled or is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runner_bench import Bench, alive, error


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as opened:
        yield opened


# --- how an attempt fails --------------------------------------------------------------------------------------------


def test_an_exception(bench: Bench) -> None:
    end = bench.run("fails")
    assert error(end) == ("unknown", "the reason")
    assert end.error is not None
    assert end.error["type"] == "ValueError"
    lines = end.error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in fails")
    assert lines[-1] == "ValueError: the reason"


def test_an_error_of_a_lazy_query_shows_when_it_is_written(bench: Bench) -> None:
    first = bench.run_task(bench.task("numbers", stage_id="first"))
    assert first.output is not None
    end = bench.run_task(bench.task("missing_column", inputs={"first": first.output}))
    assert end.error is not None
    assert end.error["class"] == "data"
    assert end.error["type"] == "polars.exceptions.ColumnNotFoundError"
    assert "absent" in end.error["message"]
    assert [file.name for file in bench.artifacts.glob("e1/*")] == ["first.0.1.arrow"]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("interrupts", {}, ("unknown", "KeyboardInterrupt")),
        ("exits", {"code": 3}, ("code", "the stage's code called sys.exit(3)")),
    ],
)
def test_interrupt_and_exit_are_ordinary_failures(
    bench: Bench, function: str, arguments: dict[str, Any], expected: tuple[str, str]
) -> None:
    bench.ready()
    before = bench.workers()
    assert error(bench.run(function, **arguments)) == expected
    assert bench.workers() == before


def test_something_that_is_no_table(bench: Bench) -> None:
    kind, message = error(bench.run("no_table"))
    assert kind == "code"
    assert "int" in message


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("exits_hard", {"code": 3}, "the stage's process ended with exit code 3"),
        ("exits_hard", {"code": 0}, "the stage's process ended with exit code 0"),
        (
            "kills_itself",
            {"name": "SIGKILL"},
            "the stage's process was killed by SIGKILL (possibly by the kernel's out-of-memory killer)",
        ),
        ("kills_itself", {"name": "SIGABRT"}, "the stage's process was killed by SIGABRT"),
    ],
)
def test_a_process_that_dies(bench: Bench, function: str, arguments: dict[str, Any], message: str) -> None:
    assert error(bench.run(function, **arguments)) == ("crash", message)
    assert bench.run("nothing").output == {}  # there is another one


def test_a_crash_in_native_code_shows_where_it_was(bench: Bench) -> None:
    key = bench.start("reads_address_zero")
    assert error(bench.end_of(key)) == ("crash", "the stage's process was killed by SIGSEGV")
    assert "Fatal Python error: Segmentation fault" in bench.texts(key)
    assert any("in reads_address_zero" in text for text in bench.texts(key))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit is Linux's")
@pytest.mark.parametrize("function", ["eats_lists", "eats_polars"])
def test_a_memory_limit(bench: Bench, function: str) -> None:
    end = bench.run_task(bench.task(function, memory_limit=200))
    assert error(end) == ("resource", "out of memory: the stage may use 200 MiB")
    small = bench.run_task(bench.task("numbers", memory_limit=50))
    assert small.output is not None
    assert small.output["rows"] == 3
    assert bench.run("numbers").error is None


def test_an_import_that_fails_is_the_codes_fault(bench: Bench) -> None:
    kind, message = error(bench.run("steps:clean"))
    assert kind in {"code", "configuration"}
    assert "steps" in message


def test_a_task_that_is_not_json(bench: Bench) -> None:
    end = bench.run("prints", count=2**64, size=1)
    text = "the stage's config or variables cannot be sent to its process: Integer exceeds 64-bit range"
    assert error(end) == ("configuration", text)
    assert bench.run("nothing").output == {}


def test_a_stage_that_disturbs_its_process(bench: Bench) -> None:
    assert error(bench.run("writes_everywhere")) == (
        "code",
        "the stage's code wrote to the internal channel of its process",
    )
    assert error(bench.run("closes_everything")) == ("crash", "the stage's process ended with exit code 1")
    assert bench.run("nothing").output == {}


# --- cancelling and killing ------------------------------------------------------------------------------------------


def test_cancelling_lets_the_stage_clean_up(bench: Bench, tmp_path: Path) -> None:
    key = bench.start("sleeps", seconds=600, beside=str(tmp_path / "ended"))
    bench.said(key, "sleeping")
    bench.runner.cancel(key)
    assert error(bench.end_of(key)) == ("cancelled", "the stage was cancelled")
    assert (tmp_path / "ended").read_text() == "ended"
    assert bench.run("nothing").output == {}


def test_cancelling_at_once(bench: Bench) -> None:
    bench.ready()
    for _ in range(50):  # whatever the worker is doing when the request comes
        key = bench.start("sleeps", seconds=600)
        bench.runner.cancel(key)
        assert error(bench.end_of(key)) == ("cancelled", "the stage was cancelled")


def test_a_late_cancel_hits_nobody_else(bench: Bench) -> None:
    for _ in range(50):
        first, second = bench.start("nothing"), bench.start("nothing")
        bench.until(lambda key=first: key in bench.runner._running or bool(bench.ends(key)), "the start")  # type: ignore[misc]
        bench.runner.cancel(first)
        bench.end_of(first)
        assert bench.end_of(second).output == {}


def test_a_service_managers_sigterm_ends_no_stage(bench: Bench, tmp_path: Path) -> None:
    key = bench.start("waits", path=str(tmp_path / "go on"))
    bench.said(key, "waiting")
    for pid in (bench.fork_server(), *bench.workers()):
        os.kill(pid, signal.SIGTERM)
    (tmp_path / "go on").touch()
    assert bench.end_of(key).output == {}


def test_cancelling_what_waits(bench: Bench) -> None:
    bench.ready()
    first, second = bench.start("sleeps", seconds=600), bench.start("nothing")
    bench.runner.cancel(second)
    assert bench.ends(second) == []  # nothing is delivered from within a call
    assert error(bench.end_of(second)) == ("cancelled", "the stage was cancelled")
    bench.runner.cancel(first)
    bench.end_of(first)


def test_an_error_while_cancelling_is_a_cancellation(bench: Bench) -> None:
    key = bench.start("fails_when_cancelled")
    bench.said(key, "sleeping")
    bench.runner.cancel(key)
    assert error(bench.end_of(key)) == (
        "cancelled",
        "the stage was cancelled and then raised RuntimeError: cannot clean up",
    )


def test_killing_native_code(bench: Bench) -> None:
    key = bench.start("sleeps_in_native_code", seconds=600)
    bench.said(key, "sleeping")
    (pid,) = bench.workers()
    given = {"type": "timeout", "message": "the attempt exceeded its limit", "class": "timeout"}
    bench.runner.kill(key, given)
    assert bench.ends(key) == []
    assert bench.end_of(key).error == given
    assert not alive(pid)
    assert bench.run("nothing").output == {}


def test_killing_what_waits_and_what_has_ended(bench: Bench) -> None:
    bench.ready()
    first, second = bench.start("sleeps", seconds=600), bench.start("nothing")
    bench.runner.kill(second, {"type": "stop", "message": "stopped", "class": "cancelled"})
    assert error(bench.end_of(second)) == ("cancelled", "stopped")
    bench.runner.kill(first, {"type": "stop", "message": "stopped", "class": "cancelled"})
    bench.end_of(first)
    bench.runner.kill(first, {"type": "stop", "message": "again", "class": "cancelled"})
    bench.runner.cancel(first)
    assert bench.run("nothing").output == {}
    assert len(bench.ends(first)) == 1


def test_what_a_killed_attempt_said_is_its_own(bench: Bench) -> None:
    for _ in range(5):
        key = bench.start("prints", count=10_000_000, size=10)
        bench.until(lambda key=key: bool(bench.logs(key)), "a line")  # type: ignore[misc]
        bench.runner.kill(key, {"type": "stop", "message": "stopped", "class": "cancelled"})
        after = bench.start("nothing")
        bench.end_of(key)
        bench.end_of(after)
        assert bench.logs(after) == []


def test_a_key_runs_once(bench: Bench) -> None:
    task = bench.task("nothing")
    bench.runner.start(task)
    with pytest.raises(ValueError, match="attempt 'key-1' has already been started"):
        bench.runner.start(task)
    bench.end_of(task.key)


def test_cancelling_a_task_that_is_still_being_sent(bench: Bench) -> None:
    bench.ready()
    os.kill(bench.workers()[0], signal.SIGSTOP)
    key = bench.start("sleeps", seconds=600, beside="x" * 5_000_000)
    bench.runner.cancel(key)
    os.kill(bench.workers()[0], signal.SIGCONT)
    assert error(bench.end_of(key)) == ("cancelled", "the stage was cancelled")
