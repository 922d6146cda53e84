"""How values look on a terminal."""

from __future__ import annotations

import pytest

from flexiroaster.cli.text import duration, one_line, parse_variables, printable, rows


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0.0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (119.6, "2 min 00 s"),
        (125.0, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3725.0, "1 h 02 min"),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_nothing_that_steers_a_terminal_gets_through() -> None:
    assert printable("a\x1b[31mb\x07\x9bc\td\n") == "a\\x1b[31mb\\x07\\x9bc\td\n"
    assert one_line(" a\n  b\r\tc \x1b") == "a b c \\x1b"


def test_rows_of_an_output() -> None:
    assert [rows(output) for output in (None, {}, {"rows": 0}, {"rows": 12})] == [None, None, 0, 12]


def test_variables_have_the_type_of_their_json() -> None:
    given = ["n=3", "by=[1, 2]", "t=true", "e=", "s=text", 'q="3"', "eq=a=b", "z=007", "nan=NaN", "none=null", "n=4"]
    assert parse_variables(given) == {
        "n": 4,
        "by": [1, 2],
        "t": True,
        "e": "",
        "s": "text",
        "q": "3",
        "eq": "a=b",
        "z": "007",
        "nan": "NaN",
        "none": None,
    }
    assert parse_variables(None) == {}
