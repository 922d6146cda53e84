"""`make faults`: run every fault test with all its trials and write the figures to docs/promises.md."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.tiers import FIGURES, TIER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
BEGIN, END = "<!-- measured by make faults: begin -->", "<!-- measured by make faults: end -->"


def main() -> int:
    """Run the suite on two processes and update the page if all tests passed."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.jsonl"
        figures.touch()
        os.environ |= {FIGURES: str(figures), TIER: "full"}
        code = pytest.main(["-q", "-n", "2", "--durations=10", *sys.argv[1:], str(ROOT / "tests" / "faults")])
        if code == 0 and not sys.argv[1:]:
            _write([json.loads(line) for line in figures.read_text().splitlines()])
    return int(code)


def _write(figures: list[dict[str, Any]]) -> None:
    text = PAGE.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    written, count = pattern.subn(lambda _: f"{BEGIN}\n{_table(figures)}\n{END}", text)
    if count != 1:
        raise SystemExit(f"{PAGE.name}: the two marker lines around the figures are missing")
    PAGE.write_text(written)


def _table(figures: list[dict[str, Any]]) -> str:
    """Format a row for each promise: trials and violations on each database, and the worst time measured."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for figure in figures:
        cells.setdefault(figure["promise"], {}).setdefault(figure["database"], []).append(figure)
    rows = [
        f"| {promise} | {_cell(found.get('SQLite', []))} | {_cell(found.get('PostgreSQL', []))} |"
        for promise, found in sorted(cells.items())
    ]
    system = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    head = [
        f"On {datetime.now(UTC).date()}, {system}:",
        "",
        "| fault and promise | SQLite | PostgreSQL |",
        "| --- | --- | --- |",
    ]
    return "\n".join([*head, *rows])


def _cell(figures: list[dict[str, Any]]) -> str:
    if not figures:
        return "-"
    cell = f"{sum(f['trials'] for f in figures)} / {sum(f['violations'] for f in figures)}"
    worst = [f["worst_seconds"] for f in figures if f.get("worst_seconds") is not None]
    return f"{cell}, worst {max(worst):.2f} s" if worst else cell


if __name__ == "__main__":
    sys.exit(main())
