"""No query per row: an operation sends as many statements for many objects as for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import insert

from flexiroaster.config import Settings
from flexiroaster.model.viewer import Role, Viewer
from flexiroaster.service import pipelines
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.journal.transitions import decision_id
from flexiroaster.store.tables import decision_overrides, decisions, stage_runs
from graphql_api.context import Context
from graphql_api.documents import Documents
from graphql_api.operations import execute_operation
from graphql_api.schema import schema
from tests.history import BEGINNING, add_executions
from tests.statements import statements

DOCUMENTS = Documents(schema)

OPERATIONS = {
    "executions": ("{ executions(first: %d) { nodes { id status progress duration } } }", 1),
    "executions and how many": ("{ executions(first: %d) { totalCount nodes { id } } }", 2),
    "executions with what they ran": (
        "{ executions(first: %d) { nodes { id variables pipeline { name } definition { order } } } }",
        4,
    ),
    "executions with their stages": (
        "{ executions(first: %d) { nodes { stageRuns { stageId attempts { number } } artifacts { rows } } } }",
        3,
    ),
    "executions with what was decided and overridden": (
        "{ executions(first: %d) { nodes { decisions { action overrides { reason } execution { status } } } } }",
        4,
    ),
    "decisions": ("{ decisions(first: %d) { nodes { action overrides { action } execution { status } } } }", 3),
    "decisions and how many": ("{ decisions(first: %d) { totalCount nodes { id } } }", 3),
    "pipelines": ("{ pipelines(first: %d) { nodes { name stageCount isActive } } }", 1),
    "pipelines with definitions and what ran last": (
        "{ pipelines(first: %d) { nodes { name stages { stageId operator } timeout order "
        "latestExecution { status stageRuns { status } pipeline { name } } } } }",
        5,
    ),
}


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        stage = {"id": "a", "type": "input", "config": {"source": "api"}}
        for i in range(12):
            pipelines.create(opened, {"id": f"p{i}", "name": f"Pipeline {i}", "stages": [stage]})
        rows = add_executions(opened, 60, pipelines=12)
        add_stage_runs(opened, [row["id"] for row in rows])
        add_decisions(opened, rows)
        yield opened


def add_stage_runs(installation: Installation, execution_ids: list[str]) -> None:
    """Add two stages to each execution, as rows."""
    run = {"status": "completed", "attempt": 1, "is_anomaly": False}
    rows = [
        {"execution_id": execution_id, "stage_id": stage_id, "name": stage_id, "position": position, **run}
        for execution_id in execution_ids
        for position, stage_id in enumerate("ab")
    ]
    with installation.database.write() as connection:
        connection.execute(insert(stage_runs), rows)


def add_decisions(installation: Installation, of: list[dict[str, Any]]) -> None:
    """Add two overridden decisions to each execution, as rows."""
    said = {"error_class": "data", "action": "terminate", "taken": "terminate", "mode": "act", "attempt": 1}
    data = {"verdicts": [{"action": "terminate", "admissible": True, "chosen": True, "reason": "why"}]}
    rows = [
        {
            "id": decision_id(row["id"], seq),
            "execution_id": row["id"],
            "pipeline_id": row["pipeline_id"],
            "seq": seq,
            "stage_id": "a",
            "at": row["created_at"],
            "data": data,
            **said,
        }
        for row in of
        for seq in (5, 7)
    ]
    instead = {"action": "skip", "reason": "why", "requested_by": "ana", "at": BEGINNING}
    with installation.database.write() as connection:
        connection.execute(insert(decisions), rows)
        connection.execute(insert(decision_overrides), [{"decision_id": row["id"], **instead} for row in rows])


def run(installation: Installation, text: str) -> dict[str, Any]:
    loop = asyncio.new_event_loop()
    try:
        operation = DOCUMENTS.operation(text, Role.VIEWER)
        context = Context(installation, Viewer("ana", Role.VIEWER))
        result = execute_operation(schema, operation, None, context, loop, monotonic() + 60)
    finally:
        loop.close()
    assert result.errors is None, result.errors
    assert result.data is not None
    return dict(result.data)


@pytest.mark.parametrize("name", OPERATIONS)
def test_as_many_statements_for_many_as_for_few(installation: Installation, name: str) -> None:
    text, expected = OPERATIONS[name]
    counts = []
    for size in (2, 10, 50):
        with statements(installation) as sent:
            run(installation, text % size)
        counts.append(len(sent))
    assert counts == [expected] * 3


def test_large_columns_are_read_only_on_request(installation: Installation) -> None:
    with statements(installation) as without:
        run(installation, "{ executions(first: 5) { nodes { id status } } }")
    with statements(installation) as with_both:
        found = run(
            installation,
            "{ executions(first: 50) { nodes { ...f error { message } } } } fragment f on Execution { variables }",
        )
    assert "executions.variables" not in without[0]
    assert "executions.error" not in without[0]
    assert "executions.variables" in with_both[0]
    nodes = found["executions"]["nodes"]
    assert all(node["variables"]["day"] for node in nodes)
    assert any(node["error"] for node in nodes)


def test_many_nodes_of_one_type_are_one_statement(installation: Installation) -> None:
    ids = [n["id"] for n in run(installation, "{ executions(first: 20) { nodes { id } } }")["executions"]["nodes"]]
    listed = ", ".join(f'"{node_id}"' for node_id in ids)
    with statements(installation) as sent:
        found = run(installation, f"{{ nodes(ids: [{listed}]) {{ id ... on Execution {{ status }} }} }}")
    assert [node["id"] for node in found["nodes"]] == ids
    assert len(sent) == 1


def test_many_decisions_take_one_statement_and_one_for_their_overrides(
    installation: Installation,
) -> None:
    ids = [n["id"] for n in run(installation, "{ decisions(first: 20) { nodes { id } } }")["decisions"]["nodes"]]
    listed = ", ".join(f'"{node_id}"' for node_id in ids)
    with statements(installation) as sent:
        found = run(installation, f"{{ nodes(ids: [{listed}]) {{ id ... on Decision {{ action }} }} }}")
    assert [node["id"] for node in found["nodes"]] == ids
    assert len(sent) == 2
