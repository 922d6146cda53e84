"""The number of trials of each fault test, and the record of the results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["DATABASES", "FIGURES", "TIER", "databases", "full", "record", "trials"]

TIER = "FAULT_TRIALS"
"""`make faults` sets `FAULT_TRIALS=full`, which runs the number of trials behind the published figures."""

DATABASES = ("sqlite", "postgresql")

FIGURES = "FAULT_FIGURES"
"""The environment variable that names the file for figures, one JSON line each."""


def full() -> bool:
    """Return whether this run makes all trials."""
    return os.environ.get(TIER) == "full"


def databases(short: str) -> pytest.MarkDecorator:
    """Parametrize over both databases, or over `short` alone in the short tier."""
    return pytest.mark.parametrize("database_url", DATABASES if full() else (short,), indirect=True)


def trials(short: int, most: int) -> int:
    """Return the number of trials for this run."""
    return most if full() else short


def record(
    promise: str, database: str, count: int, violations: Sequence[str], *, worst_seconds: float | None = None
) -> None:
    """Print the trials and violations of a promise, and store them for the report."""
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
