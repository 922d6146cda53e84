"""The table of docs/doors.md: what each door calls a thing, or why it cannot do it. What tests ask is this table."""

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
"""Call -> door -> its cell; one that begins with a dash says why not."""


def able(door: str, call: str) -> bool:
    """Whether a door can do it."""
    return not TABLE[call][door].startswith("-")


def calls(door: str) -> Iterator[str]:
    """Every call that a door has, as the table writes it."""
    for row in TABLE.values():
        if not row[door].startswith("-"):
            yield from re.findall(r"`([^`]+)`", row[door])
