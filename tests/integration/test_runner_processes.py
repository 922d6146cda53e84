"""The runner's processes: replaced when they die, and none left behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexiroaster.errors import SettingsError
from flexiroaster.operators.base import Access
from flexiroaster.workers.local_runner import Runner
from flexiroaster.workers.worker import MAX_ATTEMPTS
from tests.integration.runner_bench import LONG, ROOT, Bench, alive, error, gone
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("fresh_fork_server")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as opened:
        yield opened


# --- processes -------------------------------------------------------------------------------------------------------


def test_child_processes_are_killed_with_the_stage(bench: Bench, tmp_path: Path) -> None:
    key = bench.start("starts_child", pid_file=str(tmp_path / "pid"))
    bench.said(key, "started")
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    bench.runner.kill(key, {"type": "stop", "message": "stopped", "class": "cancelled"})
    bench.end_of(key)
    gone(child)


def test_what_a_stage_leaves_behind_ends_with_it(bench: Bench, tmp_path: Path) -> None:
    bench.ready()
    before = bench.workers()
    assert bench.run("leaves_child", pid_file=str(tmp_path / "pid")).output == {}
    gone(int((tmp_path / "pid").read_text()))
    bench.until(lambda: before[0] not in bench.workers(), "another worker")
    assert bench.run("leaves_thread").output == {}
    assert bench.run("nothing").output == {}


def test_a_fork_does_not_speak_for_the_worker(bench: Bench) -> None:
    key = bench.start("forks")
    assert bench.end_of(key).output == {}
    assert sorted(bench.texts(key)) == ["in the fork", "in the stage"]


def test_a_stage_does_not_change_the_process_for_the_next(bench: Bench, tmp_path: Path) -> None:
    bench.ready()
    first, second, third = bench.start("changes_the_process", folder="/"), bench.start("tells_the_process"), None
    bench.end_of(first)
    bench.end_of(second)
    assert bench.texts(second) == [f"None {tmp_path} {bench.workers()[0]}"]
    third = bench.start("sleeps", seconds=600)
    bench.said(third, "sleeping")
    bench.runner.cancel(third)
    assert error(bench.end_of(third))[0] == "cancelled"


def test_an_edited_module_is_imported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "steps.py"
    module.write_text("def clean() -> None:\n    print('old')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Bench(tmp_path, size=1) as bench:
        first, second = bench.start("steps:clean"), bench.start("steps:clean")
        bench.end_of(first)
        bench.end_of(second)
        module.write_text("def clean() -> None:\n    print('edited')\n")
        os.utime(module, ns=(1, 1))
        third = bench.start("steps:clean")
        bench.end_of(third)
        assert [bench.texts(key) for key in (first, second, third)] == [["old"], ["old"], ["edited"]]


def test_attempts_run_at_the_same_time_and_others_wait(tmp_path: Path) -> None:
    with Bench(tmp_path, size=2) as bench:
        bench.ready(2)
        keys = [bench.start("sleeps", seconds=600) for _ in range(3)]
        assert bench.runner.free == 0
        bench.said(keys[0], "sleeping")
        bench.said(keys[1], "sleeping")
        assert bench.logs(keys[2]) == []
        bench.runner.cancel(keys[0])
        bench.end_of(keys[0])
        bench.said(keys[2], "sleeping")
        for key in keys[1:]:
            bench.runner.cancel(key)
            bench.end_of(key)
        bench.ready(2)


def test_a_killed_worker_is_free_again_when_its_replacement_is_ready(bench: Bench) -> None:
    bench.ready()
    (pid,) = bench.workers()
    os.kill(pid, signal.SIGKILL)
    bench.until(lambda: pid not in bench.workers(), "the death")
    assert bench.runner.free == 0
    bench.ready()
    assert bench.run("nothing").output == {}


def test_killing_the_fork_server(tmp_path: Path) -> None:
    with Bench(tmp_path, size=2) as bench:
        bench.ready(2)
        before = {bench.fork_server(), *bench.workers()}
        other = bench.start("sleeps", seconds=600)
        bench.said(other, "sleeping")
        key = bench.start("kills_the_fork_server")
        message = "the stage's process was killed because the fork server of the stage processes died"
        assert error(bench.end_of(key)) == ("crash", message)
        assert bench.texts(key) == ["before"]
        assert error(bench.end_of(other)) == ("crash", message)
        assert bench.run("nothing").output == {}
        for pid in before:
            gone(pid)


def test_killing_an_idle_fork_server(bench: Bench) -> None:
    bench.ready()
    old = bench.fork_server()
    os.kill(old, signal.SIGKILL)
    bench.until(lambda: bench.runner._fork_server is not None and bench.fork_server() != old, "another fork server")
    assert bench.run("nothing").output == {}


def test_processes_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Bench(tmp_path) as bench:
        key = bench.start("nothing")
        assert error(bench.end_of(key)) == ("crash", "cannot start a process for the stage: exit code 1")
        assert bench.runner.free == 1
        monkeypatch.undo()
        assert error(bench.run("fails"))[1] == "the reason"


PARENT = """
import os, selectors, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.integration.runner_bench import Bench
bench = Bench(Path(sys.argv[1]), size=2)
bench.ready(2)
key = bench.start("starts_child", pid_file=sys.argv[1] + "/child")
bench.said(key, "started")
busy = bench.start("sleeps_in_native_code", seconds=600)
bench.said(busy, "sleeping")
print(bench.fork_server(), *bench.workers(), Path(sys.argv[1] + "/child").read_text(), flush=True)
bench.until(lambda: False, "being killed")
"""


def test_killing_the_parent_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT.format(root=str(ROOT)), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 4
        assert all(map(alive, pids))
        parent.kill()
    for pid in pids:
        gone(pid)
    eventually(lambda: not list((tmp_path / "artifacts").glob(".work-*")), LONG, "the end of the scratch folder")


def test_interrupting_the_terminal_ends_no_stage(bench: Bench, tmp_path: Path) -> None:
    key = bench.start("waits", path=str(tmp_path / "go on"))
    bench.said(key, "waiting")
    assert os.getsid(bench.fork_server()) == bench.fork_server()  # Ctrl-C goes to the session of the terminal
    for pid in (bench.fork_server(), *bench.workers()):
        os.kill(pid, signal.SIGINT)
    (tmp_path / "go on").touch()
    assert bench.end_of(key).output == {}


def test_a_worker_is_recycled(bench: Bench) -> None:
    bench.ready()
    before = bench.workers()
    for _ in range(MAX_ATTEMPTS):
        assert bench.run("nothing").output == {}
    bench.until(lambda: bench.workers() != before, "another worker")
    assert bench.run("nothing").output == {}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        selectors.DefaultSelector() as selector,
        pytest.raises(SettingsError, match=r"ARTIFACTS_URL: cannot write to .*/file: .*exists"),
    ):
        Runner(size=1, access=Access(), artifacts_url=str(tmp_path / "file"), selector=selector, deliver=print)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_close(tmp_path: Path) -> None:
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    bench = Bench(tmp_path, size=2)
    bench.ready(2)
    for number in range(200):
        function = ("nothing", "numbers", "fails", "prints_in_every_way")[number % 4]
        bench.run(function)
    pids = [bench.fork_server(), *bench.workers()]
    bench.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert not any(map(alive, pids))
    assert threading.active_count() == threads
    assert not list(bench.artifacts.glob(".work-*"))


def test_closing_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ready()
    running, waiting = bench.start("sleeps", seconds=600), bench.start("nothing")
    bench.said(running, "sleeping")
    bench.runner.close(grace=LONG)
    assert error(bench.end_of(running)) == ("cancelled", "the stage was cancelled")
    assert error(bench.end_of(waiting)) == ("cancelled", "the runner was closed before the stage ended")
    bench.close()


def test_closing_kills_after_the_grace(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    key = bench.start("sleeps_in_native_code", seconds=600)
    bench.said(key, "sleeping")
    pids = [bench.fork_server(), *bench.workers()]
    bench.runner.close(grace=0.0)
    assert error(bench.end_of(key)) == ("cancelled", "the runner was closed before the stage ended")
    assert not any(map(alive, pids))


def test_closing_before_anything_is_ready(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    key = bench.start("nothing")
    pid = bench.fork_server()
    bench.close()
    assert error(bench.end_of(key))[0] == "cancelled"
    assert not alive(pid)


def test_the_drivers_selector_is_left_as_it_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ready()
    bench.runner.close()
    assert len(bench.selector.get_map()) == 0
    bench.selector.close()
