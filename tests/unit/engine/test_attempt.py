"""Attempts: the same tables come out whether inputs are held in memory or stream, are shared, mapped or copied."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flexiroaster.artifacts import composite
from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.base import Access, Operator, OperatorConfig, Result, StageContext
from flexiroaster.operators.transforms.rows import Passthrough
from flexiroaster.workers import attempt
from flexiroaster.workers.attempt import AttemptRunner

ORDERS = [
    {"id": i % 97, "day": f"2026-01-{1 + i % 28:02d}", "customer": f"c{i % 9}", "amount": i * 1.5, "count": str(i)}
    for i in range(100)
]
CUSTOMERS = [{"customer": f"c{i}", "name": f"Customer {i}"} for i in range(8)]

STAGES: list[dict[str, Any]] = [
    {"id": "orders", "type": "input", "config": {"source": "api", "data": ORDERS}},
    {"id": "customers", "type": "input", "config": {"source": "api", "data": CUSTOMERS}},
    {
        "id": "checked",
        "type": "validation",
        "config": {
            "unique": ["id", ["id", "day"]],
            "ranges": {"amount": {"min": 3}},
            "not_null": ["customer"],
            "on_invalid": "quarantine",
        },
        "dependencies": ["orders"],
    },
    {
        "id": "typed",
        "type": "validation",
        "config": {"schema": {"count": "integer", "day": "date"}, "coerce": True},
        "dependencies": ["checked"],
    },
    {
        "id": "named",
        "type": "transform",
        "config": {"operation": "join", "on": "customer", "how": "left", "validate": "m:1"},
        "dependencies": ["typed", "customers"],
    },
    {
        "id": "derived",
        "type": "transform",
        "config": {"operation": "derive", "columns": {"price": "amount / count", "amount": "amount * 2", "one": "1"}},
        "dependencies": ["named"],
    },
    {
        "id": "cast",
        "type": "transform",
        "config": {"operation": "cast", "columns": {"day": "string"}},
        "dependencies": ["derived"],
    },
    {
        "id": "narrow",
        "type": "transform",
        "config": {"operation": "select", "exclude": ["one", "count"]},
        "dependencies": ["cast"],
    },
    {
        "id": "summed",
        "type": "transform",
        "config": {"operation": "aggregate", "by": "name", "aggregations": {"amount": "SUM(amount)"}},
        "dependencies": ["narrow"],
    },
]


@pytest.fixture
def attempts(tmp_path: Path) -> AttemptRunner:
    made = AttemptRunner(Artifacts(str(tmp_path / "artifacts")), Access(), tmp_path / "work", nullcontext())
    made.prepare()
    return made


def task(stage: dict[str, Any], outputs: dict[str, Any], memory_limit: int | None = None) -> dict[str, Any]:
    return {
        "execution_id": "e1",
        "pipeline_name": "p",
        "stage_id": stage["id"],
        "stage_type": stage["type"],
        "config": stage["config"],
        "attempt": 1,
        "token": 7,
        "inputs": {name: outputs[name] for name in stage.get("dependencies", ())},
        "variables": {},
        "memory_limit": memory_limit,
        "undo": None,
    }


def run_all(attempts: AttemptRunner) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    for stage in STAGES:
        outputs[stage["id"]] = attempts.run(task(stage, outputs), lambda _fraction, _message: None)
    return outputs


def tables(attempts: AttemptRunner, outputs: dict[str, Any]) -> dict[str, pl.DataFrame]:
    found = {name: attempts.artifacts.scan(name, summary_of(output)).collect() for name, output in outputs.items()}
    quarantine = outputs["checked"]["side_tables"]["quarantine"]
    return {**found, "quarantine": attempts.artifacts.scan("checked", quarantine).collect()}


@pytest.mark.parametrize("room", [0, 1 << 20], ids=["streaming", "in memory"])
@pytest.mark.parametrize("share", [1, 1 << 20], ids=["shared", "copied"])
@pytest.mark.parametrize("least", [1, 1 << 20], ids=["mapped", "read"])
def test_all_ways_give_the_same_tables(
    attempts: AttemptRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: int, share: int, least: int
) -> None:
    plain = run_all(attempts)
    expected = tables(attempts, plain)
    assert expected["checked"].height == 95
    assert expected["quarantine"]["_reasons"].to_list()[:2] == ["amount: range (min 3)"] * 2
    assert expected["narrow"].columns == ["id", "day", "customer", "amount", "name", "price"]
    assert [name for name, output in plain.items() if {"beside", "where"} & set(output)] == []

    monkeypatch.setattr(attempt, "IN_MEMORY_BYTES", room)
    monkeypatch.setattr(composite, "MIN_BYTES_TO_SHARE", share)
    monkeypatch.setattr(composite, "MIN_BYTES_TO_MAP", least)
    other = AttemptRunner(Artifacts(str(tmp_path / "other")), Access(), tmp_path / "work", nullcontext())
    outputs = run_all(other)
    for name, table in tables(other, outputs).items():
        assert_frame_equal(table, expected[name])
    assert [output.get("report") for output in outputs.values()] == [output.get("report") for output in plain.values()]
    assert ("where" in outputs["checked"]) is (share == 1 and room > 0)
    sharing = [name for name, output in outputs.items() if "order" in output]
    assert sharing == (["typed", "named", "derived", "cast", "narrow"] if share == 1 else [])


@pytest.mark.parametrize(("limit", "fits"), [(None, True), (8, True), (1, False)])
def test_a_memory_limit_leaves_less_room(
    attempts: AttemptRunner, monkeypatch: pytest.MonkeyPatch, limit: int | None, fits: bool
) -> None:
    outputs = run_all(attempts)
    outputs["orders"] = {**outputs["orders"], "bytes": 1 << 18}
    seen: list[bool] = []
    monkeypatch.setattr(Artifacts, "scan", lambda *_arguments: pl.LazyFrame())
    monkeypatch.setattr(attempt, "memory_limited", lambda _limit: nullcontext())

    def look(_self: Passthrough, context: StageContext) -> Result:
        seen.append(context.in_memory)
        return Result(passthrough_stage="orders")

    monkeypatch.setattr(Passthrough, "run", look)
    stage = {"id": "s", "type": "transform", "config": {"operation": "passthrough"}, "dependencies": ["orders"]}
    attempts.run(task(stage, outputs, limit), lambda _fraction, _message: None)
    assert seen == [fits]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Result(passthrough_stage="x"), "passed on the table of 'x', which is not an input"),
        (
            Result(table=pl.LazyFrame(), row_aligned_with="x"),
            "returned columns or rows of the table of 'x', which is not an input",
        ),
        (Result(table=7, row_aligned_with="orders"), "returned builtins.int instead of a polars table"),  # type: ignore[arg-type]
        (Result(table=7), "returned builtins.int instead of a polars table"),  # type: ignore[arg-type]
    ],
)
def test_what_an_operator_may_not_give(
    attempts: AttemptRunner, monkeypatch: pytest.MonkeyPatch, result: Result, message: str
) -> None:
    outputs = run_all(attempts)
    monkeypatch.setattr(Passthrough, "run", lambda _self, _context: result)
    stage = {"id": "s", "type": "transform", "config": {"operation": "passthrough"}, "dependencies": ["orders"]}
    with pytest.raises(StageError) as caught:
        attempts.run(task(stage, outputs), lambda _fraction, _message: None)
    assert (caught.value.message, caught.value.error_class) == (message, ErrorClass.CODE)


def test_a_file_in_the_scratch_folder_becomes_the_artifact(
    attempts: AttemptRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pl.DataFrame({"a": [1, 2, 3]})

    def write(_self: Operator[OperatorConfig], context: StageContext) -> Result:
        file = context.workdir / "table.arrow"
        table.write_ipc(file, compression="uncompressed")
        return Result(file=file)

    outputs = run_all(attempts)
    monkeypatch.setattr(Passthrough, "run", write)
    stage = {"id": "s", "type": "transform", "config": {"operation": "passthrough"}, "dependencies": ["orders"]}
    output = attempts.run(task(stage, outputs), lambda _fraction, _message: None)
    assert Path(output["url"]).name == "s.7.1.arrow"
    assert (output["rows"], output["schema"]) == (3, {"a": "Int64"})
    assert_frame_equal(attempts.artifacts.scan("s", output).collect(), table)
    assert list(attempts.workdir.iterdir()) == []
