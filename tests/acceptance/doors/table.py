"""The table of docs/doors.md: each interface's name for a call, or the reason why it lacks the call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DOORS", "TABLE", "able", "calls"]

PAGE = Path(__file__).parents[3] / "docs" / "doors.md"
DOORS = ("Python", "command line", "GraphQL", "REST")


def _rows() -> Iterator[tuple[str, dict[str, str]]]:
    for line in PAGE.read_text().splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
        if re.match(r"`\w+`", name):
            yield re.findall(r"`(\w+)`", name)[0], dict(zip(DOORS, cells, strict=True))


TABLE = dict(_rows())
"""Call -> interface -> cell; a cell that begins with a dash gives the reason why the call is missing."""


def able(door: str, call: str) -> bool:
    """Whether an interface has a call."""
    return not TABLE[call][door].startswith("-")


def calls(door: str) -> Iterator[str]:
    """All calls of an interface, as the table writes them."""
    for row in TABLE.values():
        if not row[door].startswith("-"):
            yield from re.findall(r"`([^`]+)`", row[door])
