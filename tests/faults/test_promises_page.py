"""The page of promises names the test of each, and every test stands there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.__main__ import BEGIN, END, PAGE


def test_every_file_of_tests_is_named() -> None:
    named = set(re.findall(r"\.\./tests/faults/(test_\w+\.py)", PAGE.read_text()))
    there = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert named == there


def test_the_figures_have_their_place() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
