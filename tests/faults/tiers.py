"""How many trials a test makes, and where it tells what came of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FIGURES", "FULL", "record", "trials"]

FULL = os.environ.get("FAULT_TRIALS") == "full"
"""`FAULT_TRIALS=full`, as `make faults` sets it: the number of trials that the promises are measured with."""

FIGURES = "FAULT_FIGURES"
"""The variable with the file that figures are added to, one JSON line each."""


def trials(short: int, full: int) -> int:
    """The number for this run."""
    return full if FULL else short


def record(
    promise: str, database: str, count: int, violations: Sequence[str], *, worst_seconds: float | None = None
) -> None:
    """Print, and keep for the report, how many trials were made for a promise and how many broke it."""
    worst = "" if worst_seconds is None else f", worst {worst_seconds:.2f} s"
    print(f"{promise} ({database}): {count} trials / {len(violations)} violations{worst}")
    if path := os.environ.get(FIGURES):
        line = {
            "promise": promise,
            "database": database,
            "trials": count,
            "violations": len(violations),
            "worst_seconds": worst_seconds,
        }
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
