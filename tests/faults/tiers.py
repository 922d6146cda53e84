"""How many trials a test makes, and where it tells what came of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["DATABASES", "FIGURES", "TIER", "databases", "full", "record", "trials"]

TIER = "FAULT_TRIALS"
"""`FAULT_TRIALS=full`, as `make faults` sets it: the number of trials that the promises are measured with."""

DATABASES = ("sqlite", "postgresql")

FIGURES = "FAULT_FIGURES"
"""The variable with the file that figures are added to, one JSON line each."""


def full() -> bool:
    """Whether this run makes all trials."""
    return os.environ.get(TIER) == "full"


def databases(short: str) -> pytest.MarkDecorator:
    """Both of them; in the short tier one, for a test that hardly depends on which."""
    return pytest.mark.parametrize("database_url", DATABASES if full() else (short,), indirect=True)


def trials(short: int, most: int) -> int:
    """The number for this run."""
    return most if full() else short


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
