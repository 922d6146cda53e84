"""Functions that python stages of the tests call: ordinary ones, and one for each way to fail."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import polars as pl


def nothing() -> None:
    pass


def numbers(count: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"n": range(count), "text": ["x"] * count})


def doubled(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(pl.col("n") * 2)


def missing_column(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.select("absent")


def no_table() -> object:
    return 42


def fails() -> None:
    secret = os.environ.get("TEST_MESSAGE", "the reason")
    raise ValueError(secret)


def fails_with(secret: str) -> None:
    print(f"using {secret}")
    raise ValueError(f"refused: {secret}")


def fails_unless(path: str) -> None:
    if not Path(path).exists():
        raise ValueError("not yet")


def interrupts() -> None:
    raise KeyboardInterrupt


def exits(code: int) -> None:
    sys.exit(code)


def exits_hard(code: int) -> None:
    os._exit(code)


def kills_itself(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def reads_address_zero() -> None:
    ctypes.string_at(0)


def eats_lists() -> None:
    hoard = []
    while True:
        hoard.append([0] * 100_000)


def eats_polars() -> pl.DataFrame:
    return pl.select(pl.int_range(0, 1_000_000_000, dtype=pl.Int64).alias("n"))


def sleeps(seconds: float, beside: str | None = None) -> None:
    """Writes a file once its `finally` has run."""
    try:
        print("sleeping")
        time.sleep(seconds)
    finally:
        if beside is not None:
            Path(beside).write_text("ended")


def waits(path: str) -> None:
    print("waiting")
    while not Path(path).exists():
        time.sleep(0.01)


def writes_everywhere() -> None:
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"garbage!")
    time.sleep(600)


def closes_everything() -> None:
    os.closerange(3, 100)


def sleeps_in_native_code(seconds: float) -> None:
    print("sleeping", flush=True)
    library = ctypes.PyDLL(None)  # keeps the interpreter's lock, so that no Python code can run
    library.usleep(int(seconds * 1_000_000))


def fails_when_cancelled() -> None:
    try:
        print("sleeping")
        time.sleep(60)
    finally:
        raise RuntimeError("cannot clean up")


def prints(count: int, size: int) -> None:
    text = "x" * size
    for _ in range(count):
        print(text)


def prints_raw(count: int, size: int) -> None:
    line = b"x" * (size - 1) + b"\n"
    for _ in range(count):
        os.write(1, line)


def prints_in_every_way() -> None:
    print("printed")
    print("half a", end=" ")
    print("line")
    print("10 %\r50 %\r100 %")
    print("problem", file=sys.stderr)
    logging.getLogger("library").info("told")
    logging.getLogger("library").debug("not told")
    logging.getLogger("flexiroaster.stage").debug("detail %d", 7)
    try:
        raise LookupError("inner")
    except LookupError:
        logging.getLogger("library").exception("went wrong")
    warnings.warn("old way", DeprecationWarning, stacklevel=1)
    warnings.warn("careful", UserWarning, stacklevel=1)
    os.write(1, b"from below\n")
    subprocess.run(["/bin/echo", "from a child"], check=True)
    print("no end", end="")


def prints_then_sleeps(seconds: float) -> None:
    print("first")
    print("second")
    time.sleep(seconds)


def starts_child(pid_file: str) -> None:
    child = subprocess.Popen(["/bin/sleep", "600"])
    Path(pid_file).write_text(str(child.pid))
    print("started")
    time.sleep(600)


def leaves_child(pid_file: str) -> None:
    Path(pid_file).write_text(str(subprocess.Popen(["/bin/sleep", "600"]).pid))


def leaves_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()


def forks() -> None:
    pid = os.fork()
    if pid == 0:
        print("in the fork")
        os._exit(0)
    os.waitpid(pid, 0)
    print("in the stage")


def changes_the_process(folder: str) -> None:
    os.environ["FLEXIROASTER_TEST_CHANGED"] = "1"
    os.chdir(folder)
    logging.getLogger().handlers = []
    sys.stdout = sys.__stdout__
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def tells_the_process() -> None:
    print(os.environ.get("FLEXIROASTER_TEST_CHANGED"), Path.cwd(), os.getpid())


def reports_progress(context) -> None:
    context.report_progress(0.25, "a quarter")
    context.report_progress(0.26, "not shown")
    context.report_progress(1.0, "done")


def writes_scratch(context) -> None:
    (context.workdir / "scratch").write_text("x")
    print(context.workdir)


def kills_the_fork_server() -> None:
    print("before")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
