"""What is known of a definition before it is stored."""

from __future__ import annotations

from typing import Any

import pytest

from flexiroaster.model.pipeline import Pipeline, parse_pipeline
from flexiroaster.service.definition import unset_variables, with_stable_id

STAGE = {"id": "a", "type": "input", "config": {"source": "api"}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Daily Sales", "daily-sales"),
        ("daily  sales!", "daily-sales"),
        ("a/b_c", "a-b-c"),
        ("Straße 7", "strasse-7"),
        ("売上", "売上"),
        ("x" * 255, "x" * 255),
        ("!!!", "pipeline-e84c538e7fe2"),
    ],
)
def test_an_id_is_made_of_the_name(name: str, expected: str) -> None:
    raw = {"name": name, "stages": [STAGE]}
    assert with_stable_id(raw) == {"id": expected, **raw}
    made = with_stable_id(parse_pipeline(raw))
    assert isinstance(made, Pipeline)
    assert made.id == expected


def test_punctuation_only_gives_different_ids() -> None:
    ids = {with_stable_id({"name": name})["id"] for name in ("!!!", "???")}  # type: ignore[index]
    assert len(ids) == 2


@pytest.mark.parametrize(
    "raw", [{"id": "mine", "name": "Other"}, {"name": 3}, {"stages": []}, None, "text", [1]], ids=repr
)
def test_what_has_an_id_or_no_name_stays_as_it_is(raw: Any) -> None:
    assert with_stable_id(raw) is raw


def test_an_empty_id_counts_as_none() -> None:
    assert with_stable_id({"id": None, "name": "Daily Sales"}) == {"id": "daily-sales", "name": "Daily Sales"}


def test_variables_without_a_value_in_the_order_of_their_first_use() -> None:
    config = {"source": "file", "path": "${folder}/${day}.csv", "null_values": ["${nothing}", "${day}"]}
    pipeline = parse_pipeline({"name": "x", "variables": {"nothing": ""}, "stages": [{**STAGE, "config": config}]})
    assert unset_variables(pipeline) == ["folder", "day"]
    assert unset_variables(pipeline, {"folder": "data"}) == ["day"]
