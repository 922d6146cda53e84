"""Artifacts: written whole or not at all, described, found again; local and remote."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from subprocess import run

import fsspec
import polars as pl
import pytest
import xxhash
from polars.exceptions import ColumnNotFoundError, InvalidOperationError

from flexiroaster.artifacts.store import Artifacts, summary_of
from flexiroaster.errors import ErrorClass, StageError

TABLE = pl.DataFrame({"id": [1, 2, 3], "name": ["a", "b", None], "at": [1.5, 2.5, 3.5]})


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def remote(tmp_path: Path) -> Artifacts:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    return Artifacts("memory://bucket/artifacts", tmp_path / "cache")


@pytest.mark.parametrize("table", [TABLE, TABLE.lazy()], ids=["eager", "lazy"])
def test_a_table_is_written_and_read(artifacts: Artifacts, table: pl.DataFrame | pl.LazyFrame, tmp_path: Path) -> None:
    summary = artifacts.write(table, "e1", "load", 2)
    path = tmp_path / "artifacts" / "e1" / "load.2.arrow"
    assert summary == {
        "url": str(path),
        "rows": 3,
        "columns": 3,
        "bytes": path.stat().st_size,
        "schema": {"id": "Int64", "name": "String", "at": "Float64"},
        "checksum": "xxh3_128:" + xxhash.xxh3_128_hexdigest(path.read_bytes()),
    }
    assert artifacts.scan("load", summary).collect().equals(TABLE)
    assert [file.name for file in path.parent.iterdir()] == ["load.2.arrow"]


def test_a_side_table_has_its_own_name(artifacts: Artifacts) -> None:
    main, side = artifacts.write(TABLE, "e1", "check", 1), artifacts.write(TABLE.head(1), "e1", "check", 1, "rejected")
    assert Path(side["url"]).name == "check.1.rejected.arrow"
    assert artifacts.scan("check", main).collect().height == 3
    assert artifacts.scan("check", side).collect().height == 1


@pytest.mark.parametrize("name", ["", "2", "a.b", "../up", "a/b", "x" * 65])
def test_a_side_table_cannot_take_another_files_name(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(StageError) as caught:
        artifacts.write(TABLE, "e1", "check", 1, name)
    text = f"side table {name!r}: a name must start with a letter or _, followed by up to 63 letters, digits or _"
    assert caught.value.message == text
    assert caught.value.error_class is ErrorClass.CODE


def test_the_longest_names(artifacts: Artifacts) -> None:
    one, other = "x" * 254 + "1", "x" * 254 + "2"
    first = artifacts.write(TABLE, "e1", one, 1001, "n" * 64)
    second = artifacts.write(TABLE, "e1", other, 1001, "n" * 64)
    assert first["url"] != second["url"]
    assert artifacts.scan(one, first).collect().equals(TABLE)


@pytest.mark.parametrize("table", [TABLE.clear(), TABLE.clear().lazy(), pl.DataFrame(), pl.LazyFrame()])
def test_empty_tables(artifacts: Artifacts, table: pl.DataFrame | pl.LazyFrame) -> None:
    summary = artifacts.write(table, "e1", "load", 1)
    assert summary["rows"] == 0
    read = artifacts.scan("load", summary).collect()
    assert read.shape == (0, summary["columns"])


def test_a_table_that_fails_leaves_nothing(artifacts: Artifacts) -> None:
    with pytest.raises(ColumnNotFoundError):
        artifacts.write(TABLE.lazy().select("absent"), "e1", "load", 1)
    assert list((artifacts.folder / "e1").iterdir()) == []


def test_a_file_that_polars_creates_after_it_has_raised_finds_no_place(artifacts: Artifacts) -> None:
    """One in ten times or so the streaming engine is that late."""
    failing = pl.LazyFrame({"x": ["a", "b"]}).with_columns(pl.col("x").cast(pl.Int64))
    for attempt in range(50):
        with pytest.raises(InvalidOperationError):
            artifacts.write(failing, "e1", "load", attempt)
    artifacts.write(TABLE.lazy(), "e1", "load", 50)
    assert [path.name for path in (artifacts.folder / "e1").rglob("*")] == ["load.50.arrow"]


def test_an_attempt_written_again_replaces_the_file(artifacts: Artifacts) -> None:
    artifacts.write(TABLE.head(1), "e1", "load", 1)
    summary = artifacts.write(TABLE, "e1", "load", 1)
    assert artifacts.scan("load", summary).collect().equals(TABLE)


def test_a_reader_keeps_what_it_has_opened(artifacts: Artifacts) -> None:
    summary = artifacts.write(TABLE, "e1", "load", 1)
    opened = pl.read_ipc(summary["url"])
    artifacts.write(TABLE.head(1), "e1", "load", 1)
    assert opened.equals(TABLE)


def test_a_missing_file(artifacts: Artifacts) -> None:
    summary = artifacts.write(TABLE, "e1", "load", 1)
    Path(summary["url"]).unlink()
    with pytest.raises(StageError) as caught:
        artifacts.scan("load", summary)
    assert (
        caught.value.message
        == f"the artifact of stage 'load' cannot be used: {summary['url']}: the file does not exist"
    )
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    assert caught.value.details == {"artifact_of": "load", "url": summary["url"]}


def test_a_truncated_file(artifacts: Artifacts) -> None:
    summary = artifacts.write(TABLE, "e1", "load", 1)
    Path(summary["url"]).write_bytes(b"half")
    with pytest.raises(StageError) as caught:
        artifacts.scan("load", summary)
    size = summary["bytes"]
    text = f"the artifact of stage 'load' cannot be used: {summary['url']}: it has 4 bytes, but {size:,} were written"
    assert caught.value.message == text


def test_removing_an_execution(artifacts: Artifacts) -> None:
    one, other = artifacts.write(TABLE, "e1", "load", 1), artifacts.write(TABLE, "e2", "load", 1)
    artifacts.remove("e1")
    artifacts.remove("e1")
    assert not Path(one["url"]).parent.exists()
    assert artifacts.scan("load", other).collect().equals(TABLE)


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts("data")
    monkeypatch.chdir("/")
    assert artifacts.folder == tmp_path / "data"


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert Artifacts(f"file://{tmp_path}/x").folder == tmp_path / "x"


def test_the_summary_within_an_output() -> None:
    summary = {"url": "u", "rows": 1, "columns": 1, "bytes": 9, "schema": {"a": "Int64"}, "checksum": "c"}
    assert summary_of({**summary, "report": {"a": 1}, "effect": {}}) == summary
    assert summary_of({"report": {"a": 1}}) == {}


def test_remote_artifacts(remote: Artifacts, tmp_path: Path) -> None:
    summary = remote.write(TABLE.lazy(), "e1", "load", 1)
    assert summary["url"] == "memory://bucket/artifacts/e1/load.1.arrow"
    stored = fsspec.filesystem("memory").cat_file("/bucket/artifacts/e1/load.1.arrow")
    assert summary["checksum"] == "xxh3_128:" + xxhash.xxh3_128_hexdigest(stored)
    assert remote.scan("load", summary).collect().equals(TABLE)
    elsewhere = Artifacts("memory://bucket/artifacts", tmp_path / "another machine")
    assert elsewhere.scan("load", summary).collect().equals(TABLE)


def test_remote_artifacts_are_fetched_once(remote: Artifacts, tmp_path: Path) -> None:
    summary = remote.write(TABLE, "e1", "load", 1)
    elsewhere = Artifacts("memory://bucket/artifacts", tmp_path / "another machine")
    elsewhere.scan("load", summary)
    fsspec.filesystem("memory").store.clear()
    assert elsewhere.scan("load", summary).collect().equals(TABLE)
    elsewhere.remove_local_copies("e1")
    with pytest.raises(
        StageError, match=r"the artifact of stage 'load' cannot be used: memory://.*: the file does not exist"
    ):
        elsewhere.scan("load", summary)
    assert [file.name for file in (tmp_path / "another machine").rglob("*.arrow*")] == []


def test_a_remote_file_of_another_size(remote: Artifacts, tmp_path: Path) -> None:
    summary = remote.write(TABLE, "e1", "load", 1)
    fsspec.filesystem("memory").pipe_file("/bucket/artifacts/e1/load.1.arrow", b"half")
    elsewhere = Artifacts("memory://bucket/artifacts", tmp_path / "another machine")
    with pytest.raises(StageError, match="it has 4 bytes"):
        elsewhere.scan("load", summary)


def test_removing_a_remote_execution(remote: Artifacts) -> None:
    remote.write(TABLE, "e1", "load", 1)
    remote.remove("e1")
    remote.remove("e1")
    assert not fsspec.filesystem("memory").exists("/bucket/artifacts/e1")
    assert not (remote.folder / "e1").exists()


def test_an_unknown_protocol(tmp_path: Path) -> None:
    artifacts = Artifacts("nowhere://bucket", tmp_path)
    with pytest.raises(StageError, match=r"ARTIFACTS_URL: nowhere://bucket/e1/load.1.arrow cannot be used: "):
        artifacts.write(TABLE, "e1", "load", 1)


def test_local_artifacts_need_no_fsspec() -> None:
    code = (
        "import sys, polars as pl; from flexiroaster.artifacts.store import Artifacts\n"
        "a = Artifacts('x'); a.scan('s', a.write(pl.LazyFrame({'a': [1]}), 'e', 's', 1)).collect()\n"
        "print('fsspec' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_the_checksum_is_of_the_whole_file(artifacts: Artifacts) -> None:
    table = pl.select(pl.int_range(0, 500_000).alias("n"))
    summary = artifacts.write(table.lazy(), "e1", "load", 1)
    assert summary["rows"] == 500_000
    with Path(summary["url"]).open("rb") as file:
        assert summary["checksum"] == "xxh3_128:" + hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
