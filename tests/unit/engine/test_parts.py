"""Tables in several files: what a stage leaves as it is is not written again, and reads as if it were."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import orjson
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flexiroaster.artifacts import composite
from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.errors import ErrorClass, StageError

TABLE = pl.DataFrame({"id": [1, 2, 3, 4], "name": ["a", "b", None, "d"], "at": [1.5, 2.5, None, 4.5]})
WIDER = TABLE.lazy().with_columns(late=pl.col("at") > 2, name=pl.col("name").str.to_uppercase())

Summary = dict[str, Any]


@pytest.fixture(autouse=True)
def nothing_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite, "MIN_BYTES_TO_SHARE", 1)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def base(artifacts: Artifacts) -> Summary:
    return artifacts.write(TABLE, "e1", "load", 1)


def stored(summary: Summary) -> Summary:
    """As it comes back from a database that keeps no order of keys."""
    keys = list(summary)
    random.Random(7).shuffle(keys)
    shuffled = {key: summary[key] for key in keys}
    shuffled["schema"] = dict(sorted(summary["schema"].items(), reverse=True))
    return summary_of(orjson.loads(orjson.dumps({**shuffled, "report": {}})))


def read(artifacts: Artifacts, summary: Summary) -> pl.DataFrame:
    scanned = artifacts.scan("here", stored(summary))
    tables = [scanned.collect(engine="in-memory"), scanned.collect(engine="streaming")]
    assert_frame_equal(*tables)
    assert summary["rows"] == tables[0].height
    assert summary["columns"] == tables[0].width
    assert summary["schema"] == {name: str(dtype) for name, dtype in tables[0].schema.items()}
    return tables[0]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("table", [WIDER, WIDER.collect()], ids=["lazy", "eager"])
def test_new_and_replaced_columns_alone_are_written(
    artifacts: Artifacts, base: Summary, table: pl.LazyFrame | pl.DataFrame, in_memory: bool
) -> None:
    summary = artifacts.write_columns(table, {"late", "name"}, base, "e1", "derive", 1, in_memory=in_memory)
    assert pl.read_ipc(summary["url"]).columns == ["name", "late"]
    assert summary["bytes"] == Path(summary["url"]).stat().st_size
    assert summary["order"] == ["id", "name", "at", "late"]
    expected = {"url": base["url"], "bytes": base["bytes"], "checksum": base["checksum"], "columns": ["id", "at"]}
    assert summary["beside"] == [{**expected, "where": None}]
    assert_frame_equal(read(artifacts, summary), WIDER.collect())


def test_fewer_columns_are_not_written(artifacts: Artifacts, base: Summary) -> None:
    wider = artifacts.write_columns(WIDER, {"late", "name"}, base, "e1", "derive", 1)
    files = sorted(Path(base["url"]).parent.iterdir())
    for columns in (["at", "id"], ["late", "id"], ["name"], ["id"]):
        summary = artifacts.write_columns(WIDER.select(columns), (), wider, "e1", "select", 1)
        assert_frame_equal(read(artifacts, summary), WIDER.select(columns).collect())
    assert sorted(Path(base["url"]).parent.iterdir()) == files


def test_a_table_without_anything_of_the_other_is_written(artifacts: Artifacts, base: Summary) -> None:
    table = TABLE.select(pl.col("id") * 2)
    summary = artifacts.write_columns(table, {"id"}, base, "e1", "derive", 1)
    assert "beside" not in summary
    assert_frame_equal(read(artifacts, summary), table)


def test_a_small_table_is_copied(artifacts: Artifacts, base: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite, "MIN_BYTES_TO_SHARE", base["bytes"] + 1)
    summary = artifacts.write_columns(WIDER, {"late", "name"}, base, "e1", "derive", 1)
    assert "beside" not in summary
    chosen = artifacts.write_selection(TABLE.head(3), pl.Series([True, True, True, False]), base, "e1", "check", 1)
    assert "where" not in chosen
    assert_frame_equal(read(artifacts, summary), WIDER.collect())
    assert_frame_equal(read(artifacts, chosen), TABLE.head(3))


def test_there_is_an_end_to_the_number_of_files(artifacts: Artifacts, base: Summary) -> None:
    summary, table, most = base, TABLE, 0
    for i in range(2 * composite.MAX_FILES):
        table = table.with_columns(pl.lit(i).alias(f"c{i}"))
        summary = artifacts.write_columns(table, {f"c{i}"}, summary, "e1", f"derive{i}", 1)
        most = max(most, 1 + len(summary.get("beside", ())))
        assert_frame_equal(read(artifacts, summary), table)
    assert most == composite.MAX_FILES
    assert len(composite.parts_of(summary)) < composite.MAX_FILES


def test_another_number_of_rows(artifacts: Artifacts, base: Summary) -> None:
    with pytest.raises(StageError) as caught:
        artifacts.write_columns(WIDER.head(3), {"late"}, base, "e1", "derive", 1)
    assert caught.value.message == "returned 3 rows, but its input table has 4"
    assert caught.value.error_class is ErrorClass.CODE
    with pytest.raises(StageError) as caught:
        artifacts.write_selection(TABLE.head(2), pl.Series([True, True, False]), base, "e1", "check", 1)
    assert caught.value.message == "selected from 3 rows, but its input table has 4"


def test_rows_that_are_left_out_stay_where_they_are(artifacts: Artifacts, base: Summary) -> None:
    kept = pl.Series([True, False, True, True])
    summary = artifacts.write_selection(TABLE.filter(kept), kept, base, "e1", "check", 1)
    assert (summary["url"], summary["bytes"], summary["rows"]) == (base["url"], base["bytes"], 3)
    assert Path(summary["where"]["url"]).name == "check.1.arrow"
    assert_frame_equal(read(artifacts, summary), TABLE.filter(kept))
    assert artifacts.scan("check", summary).select(pl.len()).collect().item() == 3


def test_a_selection_of_few_rows_or_of_a_selection_is_written(artifacts: Artifacts, base: Summary) -> None:
    few = pl.Series([True, False, False, False])
    assert "where" not in artifacts.write_selection(TABLE.filter(few), few, base, "e1", "check", 1)
    kept = pl.Series([True, True, True, False])
    first = artifacts.write_selection(TABLE.filter(kept), kept, base, "e1", "check", 2)
    again = pl.Series([True, False, True])
    second = artifacts.write_selection(TABLE.filter(kept).filter(again), again, first, "e1", "check-again", 1)
    assert "where" not in second
    assert_frame_equal(read(artifacts, second), TABLE.filter(kept).filter(again))


@pytest.mark.parametrize("rows_first", [True, False])
def test_fewer_rows_and_more_columns(artifacts: Artifacts, base: Summary, rows_first: bool) -> None:
    kept = pl.Series([False, True, True, True])
    if rows_first:
        chosen = artifacts.write_selection(TABLE.filter(kept), kept, base, "e1", "check", 1)
        table = TABLE.filter(kept).lazy().with_columns(twice=pl.col("id") * 2)
        summary = artifacts.write_columns(table, {"twice"}, chosen, "e1", "derive", 1)
    else:
        wider = TABLE.lazy().with_columns(twice=pl.col("id") * 2)
        derived = artifacts.write_columns(wider, {"twice"}, base, "e1", "derive", 1)
        table = wider.filter(kept)
        summary = artifacts.write_selection(table, kept, derived, "e1", "check", 1)
    assert_frame_equal(read(artifacts, summary), table.collect())
    narrower = artifacts.write_columns(table.select("at", "twice"), (), summary, "e1", "select", 1)
    assert_frame_equal(read(artifacts, narrower), table.select("at", "twice").collect())


@pytest.mark.parametrize("which", [lambda s: s["url"], lambda s: s["beside"][0]["url"], lambda s: s["where"]["url"]])
def test_any_file_can_be_gone(artifacts: Artifacts, base: Summary, which: Callable[[Summary], str]) -> None:
    derived = artifacts.write_columns(WIDER, {"late"}, base, "e1", "derive", 1)
    kept = pl.Series([False, True, True, True])
    summary = artifacts.write_selection(WIDER.filter(kept), kept, derived, "e1", "check", 1)
    url = which(summary)
    Path(url).unlink()
    with pytest.raises(StageError) as caught:
        artifacts.scan("check", summary)
    assert caught.value.message == f"the artifact of stage 'check' cannot be used: {url}: the file does not exist"
    assert caught.value.details == {"artifact_of": "check", "url": url}


def test_remote_files(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    remote = Artifacts("memory://bucket/artifacts", tmp_path / "cache")
    base = remote.write(TABLE, "e1", "load", 1)
    derived = remote.write_columns(WIDER, {"late", "name"}, base, "e1", "derive", 1)
    kept = pl.Series([False, True, True, True])
    summary = remote.write_selection(WIDER.filter(kept), kept, derived, "e1", "check", 1)
    elsewhere = Artifacts("memory://bucket/artifacts", tmp_path / "another machine")
    assert_frame_equal(read(elsewhere, summary), WIDER.filter(kept).collect())


FLAT = pl.DataFrame({"n": range(1000)}).select(
    pl.col("n"),
    *(pl.col("n").cast(t, strict=False).alias(str(t)) for t in (pl.Int8, pl.UInt64, pl.Float32, pl.Float64)),
    pl.when(pl.col("n") % 3 > 0).then(pl.format("text number {}", "n")).alias("text"),
    pl.col("n").cast(pl.String).cast(pl.Binary).alias("bytes"),
    pl.when(pl.col("n") % 7 > 0).then(pl.col("n") % 2 == 0).alias("flag"),
    pl.col("n").cast(pl.Date).alias("date"),
    pl.col("n").cast(pl.Duration("ms")).alias("duration"),
    pl.col("n").cast(pl.Datetime("us", "Europe/Berlin")).alias("instant"),
    (pl.col("n") * 1000).cast(pl.Time).alias("time"),
)


@pytest.fixture
def everything_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite, "MIN_BYTES_TO_MAP", 1)


@pytest.mark.usefixtures("everything_is_mapped")
def test_a_mapped_file_is_the_table(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = artifacts.write(FLAT, "e1", "load", 1)
    assert composite.can_map(summary["bytes"], summary["schema"].values())
    monkeypatch.setattr(pl, "scan_ipc", None)  # not asked
    assert_frame_equal(read(artifacts, summary), FLAT)
    opened = artifacts.scan("load", summary)
    artifacts.remove("e1")
    assert_frame_equal(opened.collect(), FLAT)


@pytest.mark.usefixtures("everything_is_mapped")
@pytest.mark.parametrize("dtype", [pl.Int128, pl.Categorical, pl.List(pl.Int64), pl.Decimal(20, 2)])
def test_what_is_not_flat_is_read(artifacts: Artifacts, dtype: pl.DataType) -> None:
    table = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    column = pl.col("b").cast(dtype) if dtype == pl.Categorical else pl.col("a").cast(dtype)
    table = table.with_columns(c=pl.concat_list("a", "a") if dtype == pl.List(pl.Int64) else column)
    summary = artifacts.write(table, "e1", "load", 1)
    assert not composite.can_map(summary["bytes"], summary["schema"].values())
    assert_frame_equal(read(artifacts, summary), table)
    narrower = artifacts.write_columns(table.select("b"), (), summary, "e1", "select", 1)
    assert_frame_equal(read(artifacts, narrower), table.select("b"))


@pytest.mark.usefixtures("everything_is_mapped")
def test_changed_bytes_are_never_mapped(artifacts: Artifacts, tmp_path: Path) -> None:
    summary = artifacts.write(FLAT, "e1", "load", 1)
    path = Path(summary["url"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError) as caught:
        Artifacts(str(tmp_path / "artifacts")).scan("load", summary)  # another process
    url = summary["url"]
    assert (
        caught.value.message
        == f"the artifact of stage 'load' cannot be used: {url}: its content differs from what was written"
    )
    assert caught.value.error_class is ErrorClass.CONFIGURATION
