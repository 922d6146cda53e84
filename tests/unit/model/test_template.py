"""`${name}` in configs."""

from __future__ import annotations

import pytest

from flexiroaster.model.pipeline import placeholders, substitute


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${n}", 3),
        ("n=${n}", "n=3"),
        ("${n}${s}", "3x"),
        ("$${n}", "${n}"),
        ("${absent}/${s}", "${absent}/x"),
        ({"a": ["${rows}", 1, None, True]}, {"a": [[{"id": 1}], 1, None, True]}),
        ("${not a name}", "${not a name}"),
        ("${s}$${s}", "x${s}"),
        ("cost: 5$", "cost: 5$"),
    ],
)
def test_substitute(value: object, expected: object) -> None:
    assert substitute(value, {"n": 3, "s": "x", "rows": [{"id": 1}]}) == expected


def test_a_value_is_not_substituted_again() -> None:
    assert substitute("${a}", {"a": "${b}", "b": "no"}) == "${b}"


def test_placeholders_are_found_at_any_depth() -> None:
    assert list(placeholders({"a": ["x${b}${c}", {"d": "${b}"}], "e": "$${no}"})) == ["b", "c", "b"]
