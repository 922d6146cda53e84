"""What the benchmarks' python stages call."""

from __future__ import annotations


def noop() -> None:
    """Nothing: what is left is the price of a stage."""
