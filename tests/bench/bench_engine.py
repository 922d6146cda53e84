"""The price of a stage: chains, fans and many executions at once, over the same durable writes in a bare loop."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest

from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation
from tests.bench.conftest import chain, fan, run

EVENT = "INSERT INTO e (x, seq, at, type, message) VALUES ('x', {0}, '2026-01-01T00:00:00.000000+00:00', 't', 'm')"


def test_chain_of_100(benchmark, installation: Installation) -> None:
    revision = pipelines.save(installation, chain(100))
    benchmark.extra_info.update(stages=100)
    assert benchmark.pedantic(run, args=(installation, revision), rounds=9, warmup_rounds=2) == "completed"


def test_bare_loop_of_100_commits(benchmark, database_url: str, tmp_path: Path) -> None:
    """What a chain of 100 must write, and nothing else: per stage one commit of an update and two inserts."""
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection = psycopg.connect(database_url, autocommit=True)
    connection.execute("CREATE TABLE s (id TEXT PRIMARY KEY, status TEXT, last INT)")
    connection.execute("CREATE TABLE e (x TEXT, seq INT, at TEXT, type TEXT, message TEXT)")
    connection.execute("INSERT INTO s VALUES ('x', 'running', 0)")

    def loop() -> None:
        for i in range(100):
            connection.execute("BEGIN")
            connection.execute(f"UPDATE s SET last = {i} WHERE id = 'x'")
            connection.execute(EVENT.format(2 * i))
            connection.execute(EVENT.format(2 * i + 1))
            connection.execute("COMMIT")

    benchmark.extra_info.update(stages=100)
    benchmark.pedantic(loop, rounds=9, warmup_rounds=2)
    connection.close()


def test_fan_out_of_200(benchmark, installation: Installation) -> None:
    revision = pipelines.save(installation, fan(200))
    benchmark.extra_info.update(stages=202)
    assert benchmark.pedantic(run, args=(installation, revision), rounds=9, warmup_rounds=2) == "completed"


def test_100_executions_at_once(benchmark, installation: Installation) -> None:
    revision = pipelines.save(installation, chain(3))

    def all_at_once() -> None:
        started = [executions.start(installation, revision) for _ in range(100)]
        for execution_id in started:
            installation.driver.wait(execution_id)

    benchmark.extra_info.update(executions=100)
    benchmark.pedantic(all_at_once, rounds=7, warmup_rounds=1)
    found, total = executions.offset_page(installation, ExecutionFilter(pipeline_ids=("chain3",)), limit=1000)
    assert total == 800
    assert {row.status for row in found} == {"completed"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_table_through_a_chain_of_100(benchmark, installation: Installation) -> None:
    """As the chain, but a table of 1,000 rows is read and written by each stage."""
    stages = [{"id": "s0", "type": "input", "config": {"source": "api", "data": [{"a": i} for i in range(1000)]}}]
    config = {"operation": "derive", "columns": {"a": "a + 1"}}
    stages += [
        {"id": f"s{i}", "type": "transform", "config": config, "dependencies": [f"s{i - 1}"]} for i in range(1, 100)
    ]
    revision = pipelines.save(installation, {"id": "tables", "name": "tables", "stages": stages})
    benchmark.extra_info.update(stages=100)
    assert benchmark.pedantic(run, args=(installation, revision), rounds=5, warmup_rounds=1) == "completed"
