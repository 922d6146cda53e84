"""Text and JSON that both databases take, whatever a stage prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexiroaster.store.sql import clean, to_json


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("plain", "plain"),
        ("größer 😀", "größer 😀"),
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("é\udcff\x00\ud800\udfff", "é\ufffd\ufffd\ufffd\ufffd"),
    ],
)
def test_what_no_database_takes_becomes_the_replacement_character(text: str, stored: str) -> None:
    assert clean(text) == stored
    assert json.loads(to_json({text: [text, (text,)]}) or "") == {stored: [stored, [stored]]}


@pytest.mark.parametrize("name", ["a\udcffb", "a\x00b"])
def test_the_text_of_an_unknown_object_is_cleaned_as_well(name: str) -> None:
    assert json.loads(to_json({"path": Path(name)}) or "") == {"path": "a\ufffdb"}
