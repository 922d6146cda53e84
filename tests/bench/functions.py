"""What the benchmarks' python stages call."""

from __future__ import annotations

import time


def noop() -> None:
    """Nothing: what is left is the price of a stage."""


def wait(seconds: float) -> None:
    """What a stage mostly does: wait for somebody else."""
    time.sleep(seconds)
