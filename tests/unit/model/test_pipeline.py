"""Definitions: what holds, and every problem of what does not."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.errors import DefinitionError
from flexiroaster.model import pipeline
from flexiroaster.model.pipeline import Pipeline, Stage, parse_pipeline

BODY = {
    "name": "Orders",
    "stages": [
        {"id": "load", "name": "Load", "type": "input", "config": {"source": "api"}, "dependencies": []},
        {"id": "clean", "type": "transform", "config": {"operation": "normalize"}, "dependencies": ["load"]},
    ],
}


def problems(raw: object) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        parse_pipeline(raw)
    return [str(problem) for problem in caught.value.problems]


def test_python_yaml_json_and_rest_mean_the_same() -> None:
    written = Pipeline(
        name="Orders",
        stages=(
            Stage(id="load", name="Load", type="input", config={"source": "api"}),
            Stage(id="clean", type="transform", config={"operation": "normalize"}, dependencies=("load",)),
        ),
    )
    assert parse_pipeline(BODY) == written
    assert parse_pipeline(json.loads(json.dumps(BODY))) == written
    assert parse_pipeline(yaml.safe_load(yaml.safe_dump(BODY))) == written
    assert parse_pipeline(written) == written
    assert parse_pipeline(written.document()) == written


def test_a_response_may_be_sent_back() -> None:
    """Clients read a pipeline, change it and send it whole: what only responses have is no error."""
    stages = [{**stage, "order": i} for i, stage in enumerate(BODY["stages"])]
    echoed = {**BODY, "stages": stages, "stage_count": 2, "created_at": "2026-01-01T00:00:00Z", "revision": 3}
    assert parse_pipeline(echoed) == parse_pipeline(BODY)


def test_every_problem_is_found_at_once() -> None:
    raw = {
        "name": "",
        "stages": [
            {"id": "a", "type": "inpt", "dependencies": ["c"]},
            {"id": "b", "type": "input", "dependecies": [], "timeout": -1, "dependencies": ["a"]},
            {"id": "c", "type": "input", "dependencies": ["b", "zz", "c"]},
            {"id": "c", "type": "input", "retry_on": ["x"]},
            3,
        ],
    }
    assert problems(raw) == [
        "name: must not be empty",
        "stages[0].type: must be one of 'input', 'transform', 'validation' or 'output', not \"inpt\"",
        "stages[1].timeout: must be greater than 0, not -1",
        "stages[1].dependecies: is not a known field; did you mean 'dependencies'?",
        "stages[3].retry_on[0]: must be one of 'transient', 'timeout', 'crash', 'resource', 'data', 'code', "
        "'configuration', 'cancelled' or 'unknown', not \"x\"",
        "stages[4]: must be a mapping, not 3",
        "stages[3].id: duplicate stage id 'c', first used by stages[2]",
        "stages[2].dependencies[1]: unknown stage 'zz'",
        "stages[2].dependencies[2]: dependency cycle: c -> c",
        "stages: dependency cycle: a -> b -> c -> a",
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "a pipeline must be a mapping with name and stages, not null"),
        ([1], "a pipeline must be a mapping with name and stages, not [1]"),
        ({"name": "x", "stages": []}, "stages: a pipeline needs at least one stage"),
        ({"name": "x"}, "stages: is required"),
    ],
)
def test_what_is_no_pipeline_at_all(raw: object, message: str) -> None:
    assert problems(raw) == [message]


@given(st.integers(1, 12), st.randoms())
def test_topological_order_puts_every_stage_after_its_dependencies(count: int, rng) -> None:
    edges = {f"s{i}": tuple(f"s{j}" for j in range(i) if rng.random() < 0.4) for i in range(count)}
    order = pipeline.topological_order(edges)
    assert sorted(order) == sorted(edges)
    assert all(order.index(d) < order.index(s) for s, wanted in edges.items() for d in wanted)


@given(st.integers(2, 10), st.randoms())
def test_a_cycle_is_shown_as_a_path_that_exists(count: int, rng) -> None:
    nodes = [f"s{i}" for i in range(count)]
    edges = {n: [m for m in nodes if rng.random() < 0.3] for n in nodes}
    cycle = pipeline.find_cycle(edges)
    if cycle is None:
        assert len(pipeline.topological_order(edges)) == count
    else:
        assert cycle[0] == cycle[-1]
        assert all(before in edges[after] for before, after in itertools.pairwise(cycle))


def test_downstream_is_transitive() -> None:
    edges = {"a": [], "b": ["a"], "c": ["b"], "d": []}
    assert pipeline.downstream(edges, "a") == {"b", "c"}
