"""What the stages of the fault suite call."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import polars as pl

from flexiroaster.operators.base import StageContext


def numbers(context: StageContext, rows: int) -> pl.DataFrame:
    return pl.DataFrame({"execution": [context.execution_id] * rows, "n": range(rows)})


def fails_once(table: pl.DataFrame, context: StageContext, folder: str) -> pl.DataFrame:
    """The first attempt of every execution fails, so that attempts and waiting for them survive crashes too."""
    mark = Path(folder) / f"{context.execution_id}.tried"
    if not mark.exists():
        mark.touch()
        raise RuntimeError("the first attempt fails")
    return table


def waits_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def sleeps(seconds: float) -> None:
    time.sleep(seconds)


def kills_its_worker(mark: str) -> None:
    """SIGKILL to the process that drives the execution: the parent of this one's fork server."""
    status = Path(f"/proc/{os.getppid()}/stat").read_text()
    driver = int(status.rpartition(")")[2].split()[1])
    with Path(mark).open("a") as file:
        file.write(f"{driver}\n")
    os.kill(driver, signal.SIGKILL)
    time.sleep(60)
