"""YAML 1.2, and a round trip of whatever JSON can hold."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.model import yaml_core

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: [id]", {"on": ["id"]}),
        ("[yes, No, off, y]", ["yes", "No", "off", "y"]),
        ("[true, False, TRUE]", [True, False, True]),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        ("[010, -3, +4, 0o17, 0x1f]", [10, -3, 4, 15, 31]),
        ("[12:30, 1_000]", ["12:30", "1_000"]),
        ("[1e5, .5, 2., -1.5E-3, .inf]", [100000.0, 0.5, 2.0, -0.0015, float("inf")]),
        ("[~, null, '']", [None, None, ""]),
        ("a:\nb: 'null'", {"a": None, "b": "null"}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("1.0.0", "1.0.0"),
        ("", None),
    ],
)
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    assert yaml_core.load(text) == value


@given(json_values)
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    assert yaml_core.load(yaml_core.dump(value)) == value


def test_a_key_that_is_given_twice_is_refused_with_its_place() -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        yaml_core.load("a: 1\nb:\n  c: 1\n  'c': 2\n")
    assert caught.value.problem == "the key 'c' is given twice"
    assert (caught.value.problem_mark.line, caught.value.problem_mark.column) == (3, 2)
    assert yaml_core.load("{1: a, '1': b}") == {1: "a", "1": "b"}


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "!!python/name:os.system x"])
def test_python_objects_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"^the tag \"!!python/[^\"]*\" is not supported: "):
        yaml_core.load(text)
