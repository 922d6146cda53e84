"""Functions that stages of the integration tests call, in worker processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import pandas as pd


def expect_people(joined: pd.DataFrame) -> pd.DataFrame:
    assert joined.to_dict("records") == [{"id": 1, "name": "Ada", "age": 36}, {"id": 2, "name": "Bob", "age": 40}]
    return joined


def talkative(table: pd.DataFrame, context) -> pd.DataFrame:
    print("printed")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").info("logged %d", 1)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("mine").exception("logged with traceback")
    warnings.warn("warned", stacklevel=1)
    context.report_progress(0.5, "half")
    return table


def wait_for_file(path: str) -> None:
    print("waiting now")
    while not Path(path).exists():
        time.sleep(0.01)


def sleep_for(seconds: float) -> None:
    time.sleep(seconds)


def meet(mine: str, theirs: str) -> None:
    Path(mine).touch()
    wait_for_file(theirs)


def fail_first(table: pd.DataFrame, path: str, failures: int) -> pd.DataFrame:
    count = Path(path)
    tries = int(count.read_text()) + 1 if count.exists() else 1
    count.write_text(str(tries))
    if tries <= failures:
        raise RuntimeError(f"not yet ({tries})")
    return table


def two(table: pd.DataFrame | None = None) -> pd.DataFrame:
    return pd.DataFrame({"x": [1, 2]})


def type_error(table: pd.DataFrame | None = None) -> pd.DataFrame:
    return 1 + "1"


def sleep_long() -> None:
    time.sleep(600)


def exit_3() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(bytearray(8 << 20))


def no_table():
    return 42


def print_100_mb() -> None:
    line = "x" * 99
    for _ in range(1_000_000):
        print(line)


def cleans_up(path: str) -> None:
    try:
        Path(path).write_text("started")
        time.sleep(600)
    finally:
        Path(path).write_text("cleaned up")


def deaf(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_text("started")
    time.sleep(600)


def fail_unless(table: pd.DataFrame, path: str) -> pd.DataFrame:
    if not Path(path).exists():
        raise RuntimeError("not yet")
    return table


def fail_on_data_unless(table: pd.DataFrame, path: str) -> pd.DataFrame:
    if not Path(path).exists():
        raise pd.errors.ParserError("row 2 is bad")
    return table


def print_many() -> None:
    for i in range(300):
        print(i)


def needs_file(path: str) -> pd.DataFrame:
    """Its data is not there until somebody puts it right."""
    if not Path(path).exists():
        raise pd.errors.ParserError(f"no usable data beside {Path(path).name}")
    return pd.DataFrame({"x": [1]})


def refuses_connection() -> None:
    raise ConnectionError("nobody answers")
