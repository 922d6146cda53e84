"""Previews of tables as JSON: typed columns, exact values, bounded rows and cells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import polars as pl
import pytest

from flexiroaster.artifacts.store import Artifacts
from flexiroaster.config import Settings
from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.service import pipelines
from flexiroaster.service.executions import artifacts, executions
from flexiroaster.service.executions.artifacts import ColumnType
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.tables import stage_runs
from tests.history import add_executions
from tests.integration.test_runs import rows

AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


@pytest.fixture
def installation(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    with open_installation(settings.model_copy(update={"artifacts_url": str(tmp_path / "artifacts")})) as opened:
        yield opened


def stored(installation: Installation, table: pl.DataFrame) -> str:
    """An execution whose stage `a` produced this table."""
    execution_id = add_executions(installation, 1, seed=table.width)[0]["id"]
    summary = Artifacts(installation.settings.artifacts_url).write(table, execution_id, "a", 1)
    row = {"execution_id": execution_id, "stage_id": "a", "position": 0, "name": "A", "status": "completed",
           "attempt": 1, "is_anomaly": False, "output": summary}  # fmt: skip
    with installation.database.write() as connection:
        connection.execute(stage_runs.insert().values(row))
    return execution_id


def test_an_execution_shows_its_tables(installation: Installation) -> None:
    clean = {"id": "n", "type": "transform", "config": {"operation": "normalize"}, "dependencies": ["a"]}
    stages = [rows("a", {"x": 1, "y": "b"}, {"x": 2, "y": "c"}), clean]
    pipelines.create(installation, {"id": "p", "name": "P", "stages": stages})
    execution_id = executions.start(installation, "p")
    assert executions.wait(installation, execution_id, timeout=120).status == "completed"
    found = artifacts.listing(installation, execution_id)
    assert [(a.stage_id, a.rows) for a in found] == [("a", 2), ("n", 2)]
    assert found[0].columns == (ColumnType("x", "Int64"), ColumnType("y", "String"))
    assert found[0].bytes > 0
    assert found[0].checksum.startswith("xxh3_128:")
    shown = artifacts.preview(installation, execution_id, "a", 1)
    assert (shown.columns, shown.rows, shown.total_rows, shown.cut) == (found[0].columns, ([1, "b"],), 2, False)


def test_every_value_is_exact_json(installation: Installation) -> None:
    columns = {
        "int": ([2**53 - 1, -(2**53)], pl.Int64, [2**53 - 1, str(-(2**53))]),
        "big": ([2**64 - 1, 1], pl.UInt64, [str(2**64 - 1), 1]),
        "float": ([float("nan"), 0.5], pl.Float64, [None, 0.5]),
        "infinite": ([float("inf"), -float("inf")], pl.Float64, [None, None]),
        "bool": ([True, None], pl.Boolean, [True, None]),
        "date": ([date(2026, 1, 2), None], pl.Date, ["2026-01-02", None]),
        "at": ([AT, None], pl.Datetime("us", "UTC"), ["2026-01-02T03:04:05.000006+00:00", None]),
        "time": ([time(3, 4), None], pl.Time, ["03:04:00", None]),
        "span": ([timedelta(seconds=1.5), None], pl.Duration("us"), [1.5, None]),
        "decimal": ([Decimal("1.10"), None], pl.Decimal(10, 2), ["1.10", None]),
        "bytes": ([b"\xff\x00", None], pl.Binary, ["/wA=", None]),
        "text": (["ä", ""], pl.String, ["ä", ""]),
        "kind": (["x", "y"], pl.Categorical, ["x", "y"]),
        "list": ([[1, 2**60], None], pl.List(pl.Int64), [[1, str(2**60)], None]),
        "struct": ([{"d": date(2026, 1, 2)}, None], pl.Struct({"d": pl.Date}), [{"d": "2026-01-02"}, None]),
    }  # fmt: skip
    table = pl.DataFrame({name: pl.Series(values, dtype=kind) for name, (values, kind, _) in columns.items()})
    shown = artifacts.preview(installation, stored(installation, table), "a")
    assert [column.name for column in shown.columns] == list(columns)
    assert [column.type for column in shown.columns] == [str(kind) for kind in table.dtypes]
    for i in range(2):
        expected = [(name, json[i]) for name, (_, _, json) in columns.items()]
        got = list(zip(columns, shown.rows[i], strict=True))
        if got[-1][1] == {"d": None}:  # a struct of nulls is how polars stores a null one
            got[-1] = ("struct", None)
        assert got == expected
    assert orjson.loads(orjson.dumps(shown.rows)) == list(shown.rows)
    assert not shown.cut


def test_previews_are_bounded(installation: Installation) -> None:
    long = pl.DataFrame({"t": ["x" * 5000] * 3000, "l": [list(range(500))] * 3000})
    execution_id = stored(installation, long)
    shown = artifacts.preview(installation, execution_id, "a", 1000)
    assert (len(shown.rows), shown.total_rows, shown.cut) == (1000, 3000, True)
    assert {len(row[0]) for row in shown.rows} == {2000}
    assert {len(row[1]) for row in shown.rows} == {100}
    for bad in (0, -1, 1001):
        with pytest.raises(InputError, match=f"^rows: must be from 1 to 1000, got {bad}$"):
            artifacts.preview(installation, execution_id, "a", bad)
    wide = pl.DataFrame({f"c{i}": [1] * 1000 for i in range(2000)})
    assert len(artifacts.preview(installation, stored(installation, wide), "a", 1000).rows) == 50


def test_a_missing_table_is_reported(installation: Installation, tmp_path: Path) -> None:
    execution_id = stored(installation, pl.DataFrame({"x": [1]}))
    with pytest.raises(NotFoundError, match=f"^Execution {execution_id} has no stage 'b'$"):
        artifacts.preview(installation, execution_id, "b")
    with pytest.raises(NotFoundError, match=r"^Execution not found: nobody$"):
        artifacts.listing(installation, "nobody")
    file = next((tmp_path / "artifacts").rglob("*.arrow"))
    told = f"^The table of stage 'a' of execution {execution_id} was deleted or altered after writing$"
    content = file.read_bytes()
    file.write_bytes(b"\xff" * len(content))
    with pytest.raises(NotFoundError, match=told):
        artifacts.preview(installation, execution_id, "a")
    file.unlink()
    with pytest.raises(NotFoundError, match=told) as caught:
        artifacts.preview(installation, execution_id, "a")
    assert str(tmp_path) not in caught.value.message
    with installation.database.write() as connection:
        connection.execute(stage_runs.update().values(output=None, status="failed"))
    with pytest.raises(NotFoundError, match=f"^Stage 'a' of execution {execution_id} is failed and has no table$"):
        artifacts.preview(installation, execution_id, "a")
    assert artifacts.listing(installation, execution_id) == []
