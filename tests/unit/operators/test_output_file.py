"""Rows into files: formats, once, undone, and at every moment a process can die."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import logging
import stat
from decimal import Decimal
from pathlib import Path

import fsspec
import polars as pl
import pytest
from pydantic import ValidationError

from flexiroaster.errors import ErrorClass
from flexiroaster.operators.base import Access
from flexiroaster.operators.outputs.file import operator, storage
from flexiroaster.operators.outputs.file.operator import FileOutput, FileOutputConfig
from tests.unit.operators.output_attempts import context, error_of, run_and_die

DATA = pl.DataFrame({"id": [1, 2], "name": ["Ada", None]})
OTHER = pl.DataFrame({"id": [9], "name": ["other"]})
CSV = "id,name\n1,Ada\n2,\n"


class Files:
    """Attempts of a file output below one root."""

    def __init__(self, root: str, **config: object) -> None:
        self.access = Access(file_roots=(root,))
        self.config = config

    def operator(self, **config: object) -> FileOutput:
        return FileOutput(FileOutputConfig.model_validate({"path": "out.csv", **self.config, **config}))

    def run(self, data: pl.DataFrame = DATA, execution: str = "e1", **config: object):
        return self.operator(**config).run(context(data, self.access, execution))

    def undo(self, execution: str = "e1", effect: dict[str, object] | None = None, **config: object) -> str:
        return self.operator(**config).undo(effect or {}, context(pl.DataFrame(), self.access, execution))

    def discard_undo_data(self, execution: str = "e1", **config: object) -> None:
        self.operator(**config).discard_undo_data({}, context(pl.DataFrame(), self.access, execution))


@pytest.fixture
def files(tmp_path):
    return Files(str(tmp_path))


def visible(folder: Path) -> dict[str, str]:
    """All files but those of ours, with their content."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".flexiroaster" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def hidden(folder: Path) -> set[str]:
    """What is kept in our folder, by the last part of its names."""
    return {path.name.partition(".")[2] or path.name for path in (folder / ".flexiroaster/outputs").iterdir()}


# formats


def test_a_file_is_written_and_told_of(files, tmp_path):
    result = files.run()
    assert visible(tmp_path) == {"out.csv": CSV}
    assert result.report == {"rows": 2, "path": f"{tmp_path}/out.csv"}
    assert result.passthrough_stage == "in"
    assert result.effect == {
        "kind": "file",
        "path": f"{tmp_path}/out.csv",
        "format": "csv",
        "rows": 2,
        "bytes": len(CSV),
        "checksum": storage.checksum_of_file((tmp_path / "out.csv").open("rb")),
        "replaced": False,
        "undoable": True,
    }
    assert json.dumps(result.effect)


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({"path": "x.csv"}, pl.read_csv),
        ({"path": "x.csv.gz"}, pl.read_csv),
        ({"path": "x.csv", "compression": "zstd"}, pl.read_csv),
        ({"path": "x.tsv"}, lambda path: pl.read_csv(path, separator="\t")),
        ({"path": "x.ndjson"}, pl.read_ndjson),
        ({"path": "x.jsonl.zst"}, pl.read_ndjson),
        ({"path": "x.json"}, pl.read_json),
        ({"path": "x.parquet"}, pl.read_parquet),
        ({"path": "x", "format": "parquet", "compression": "lz4"}, pl.read_parquet),
        ({"path": "x.arrow"}, pl.read_ipc),
        ({"path": "x.ipc", "compression": "zstd"}, pl.read_ipc),
    ],
)
def test_what_is_written_can_be_read(files, config, read):
    files.run(**config)
    assert read(config["path"]).equals(DATA)


@pytest.mark.parametrize(
    ("path", "magic"), [("x.csv.gz", b"\x1f\x8b"), ("x.json.gz", b"\x1f\x8b"), ("x.csv.zst", b"(\xb5/\xfd")]
)
def test_the_extension_decides_on_the_compression(files, path, magic):
    files.run(path=path)
    assert Path(path).read_bytes().startswith(magic)


def test_options_of_csv(files, tmp_path):
    files.run(separator=";", header=False, null_value="NA")
    assert visible(tmp_path) == {"out.csv": "1;Ada\n2;NA\n"}


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_json_is_one_array_however_it_is_cut(files, monkeypatch, rows, block):
    monkeypatch.setattr(operator, "_BLOCK", block)
    data = pl.DataFrame({"n": range(rows), "s": ["line\nbreak ,\n"] * rows})
    files.run(data, path="x.json")
    assert json.loads(Path("x.json").read_text()) == data.to_dicts()
    assert {path.name for path in Path().iterdir()} == {"x.json", ".flexiroaster"}


TYPED = pl.DataFrame(
    {
        "at": [dt.datetime(2026, 1, 2, 3, 4, 5, 600)],
        "on": [dt.date(2026, 1, 2)],
        "clock": [dt.time(3, 4, 5)],
        "span": [dt.timedelta(days=1, seconds=2)],
        "price": [Decimal("1.20")],
        "raw": [b"\x00\xff"],
        "float": [float("nan")],
    }
).with_columns(zoned=pl.col("at").dt.replace_time_zone("Europe/Berlin"))


def test_values_in_csv(files, tmp_path):
    files.run(TYPED)
    assert visible(tmp_path)["out.csv"].splitlines()[1] == (
        "2026-01-02T03:04:05.000600,2026-01-02,03:04:05,P1DT2S,1.20,AP8=,NaN,2026-01-02T03:04:05.000600+01:00"
    )


def test_values_in_json(files):
    files.run(TYPED, path="x.json")
    assert json.loads(Path("x.json").read_text()) == [
        {
            "at": "2026-01-02T03:04:05.000600",
            "on": "2026-01-02",
            "clock": "03:04:05",
            "span": "P1DT2S",
            "price": "1.20",
            "raw": "AP8=",
            "float": None,
            "zoned": "2026-01-02T03:04:05.000600+01:00",
        }
    ]


@pytest.mark.parametrize(
    ("data", "path", "expected"),
    [
        (
            {"n": [1], "l": [[1]], "s": [{"a": 1}]},
            "x.csv",
            "column 'l', 's': csv cannot hold lists or structs; write parquet, or convert the column",
        ),
        (
            {"l": [[{"b": b"x"}]]},
            "x.json",
            "column 'l': json cannot hold bytes inside lists or structs; write parquet, or convert the column",
        ),
    ],
)
def test_columns_that_a_format_cannot_hold_are_named(files, tmp_path, data, path, expected):
    error = error_of(files.run, pl.DataFrame(data), path=path)
    assert (error.message, error.error_class) == (expected, ErrorClass.DATA)
    assert visible(tmp_path) == {}


# where to


def test_placeholders_and_missing_folders(files, tmp_path):
    files.run(path="a/{stage_id}/{date}/{execution_id}.csv")
    today = dt.datetime.now(dt.UTC).date()
    assert visible(tmp_path) == {f"a/save/{today}/e1.csv": CSV}


def test_an_attempt_on_the_next_day_finds_the_effect(files, tmp_path, monkeypatch):
    for day in ("2026-01-01", "2026-01-02"):
        monkeypatch.setattr(FileOutput, "_placeholders", lambda self, context, day=day: {"date": day})
        files.run(path="a/{date}/x.csv")
    assert visible(tmp_path) == {"a/2026-01-01/x.csv": CSV}


@pytest.mark.parametrize("path", ["../x.csv", "/etc/x.csv", "a/../../x.csv"])
def test_nothing_is_written_outside_of_the_roots(files, tmp_path, path):
    expected = f"file {path!r} is outside the allowed roots (FILE_ROOTS): {tmp_path}"
    error = error_of(files.run, path=path)
    assert (error.message, error.error_class) == (expected, ErrorClass.CONFIGURATION)
    (problem,) = files.operator(path=path).check(("in",), files.access)
    assert (problem.path, problem.message) == ("path", expected)


@pytest.mark.parametrize("path", [".flexiroaster/flexiroaster.db", "a/.flexiroaster/x.csv", "link/x.csv"])
def test_our_own_folder_is_not_written_to(files, tmp_path, path):
    (tmp_path / ".flexiroaster").mkdir()
    (tmp_path / "link").symlink_to(".flexiroaster")
    error = error_of(files.run, path=path, format="csv")
    assert error.message == f"{path!r} is in .flexiroaster, which is reserved for FlexiRoaster; choose another folder"
    assert [problem.path for problem in files.operator(path=path, format="csv").check((), files.access)] == ["path"]


def test_a_root_may_lie_in_a_folder_of_that_name(tmp_path):
    root = tmp_path / ".flexiroaster" / "exports"
    root.mkdir(parents=True)
    Files(str(root)).run(path=f"{root}/x.csv")
    assert (root / "x.csv").read_text() == CSV


@pytest.mark.parametrize(
    ("config", "path", "expected"),
    [
        ({"path": "x"}, "format", "cannot tell the format of 'x' from its name"),
        ({"path": "x.csv.xz"}, "path", "csv files cannot be wrapped in xz: choose another extension"),
        ({"path": "x.parquet.gz"}, "path", "parquet files cannot be wrapped in gzip: choose another extension"),
        (
            {"path": "x.csv", "compression": "lz4"},
            "compression",
            "csv does not support lz4; it supports gzip, uncompressed, zstd",
        ),
        (
            {"path": "x.csv.gz", "compression": "zstd"},
            "compression",
            "is zstd, but the extension of 'x.csv.gz' says gzip",
        ),
        ({"path": "x.parquet", "header": False}, "header", "applies to csv, not to parquet"),
        ({"path": "x.tsv", "separator": ";"}, "separator", "applies to csv, not to tsv"),
    ],
)
def test_what_the_check_of_a_definition_finds(files, config, path, expected):
    (problem,) = files.operator(**config).check(("in",), files.access)
    assert problem.path == path
    assert problem.message.startswith(expected)


def test_a_sound_definition_has_no_problems(files):
    for config in ({}, {"path": "{date}/x.tsv.gz", "header": False, "null_value": "-"}, {"separator": ";"}):
        assert list(files.operator(**config).check(("in",), files.access)) == []


@pytest.mark.parametrize(
    "config", [{"separator": "::"}, {"separator": "é"}, {"format": "xml"}, {"file": "x"}, {"path": ""}]
)
def test_malformed_configs(config):
    with pytest.raises(ValidationError):
        FileOutputConfig.model_validate({"path": "x.csv", **config})


# once, and undone


def test_a_repeated_attempt_finds_the_effect_and_writes_nothing(files, tmp_path, caplog):
    first = files.run()
    (tmp_path / "out.csv").write_text("changed since")
    with caplog.at_level(logging.INFO, "flexiroaster.stage"):
        assert files.run() == first
    assert visible(tmp_path) == {"out.csv": "changed since"}
    assert "an earlier attempt already took effect at 20" in caplog.text


def test_an_undo_removes_the_file_once(files, tmp_path):
    files.run()
    assert files.undo() == f"removed {tmp_path}/out.csv"
    assert visible(tmp_path) == {}
    (tmp_path / "out.csv").write_text("somebody's")
    assert files.undo().startswith("was already undone at 20")
    assert visible(tmp_path) == {"out.csv": "somebody's"}


def test_an_effect_whose_checksum_is_spelled_as_it_once_was_is_undone(files, tmp_path):
    files.run()
    (record,) = (tmp_path / ".flexiroaster/outputs").glob("*.json")
    record.write_text(record.read_text().replace("xxh3_128:", "xxh3-128:"))
    assert files.undo() == f"removed {tmp_path}/out.csv"
    assert visible(tmp_path) == {}


def test_an_undo_puts_the_former_version_back_once(files, tmp_path):
    (tmp_path / "out.csv").write_text("former")
    (tmp_path / "out.csv").chmod(0o640)
    assert files.run().effect["replaced"] is True
    assert visible(tmp_path) == {"out.csv": CSV}
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o640
    assert files.undo() == f"restored the former version of {tmp_path}/out.csv"
    assert visible(tmp_path) == {"out.csv": "former"}
    assert files.undo().startswith("was already undone at 20")
    assert hidden(tmp_path) == {"lock", "json"}


def test_executions_are_undone_from_the_last(files, tmp_path):
    files.run(OTHER, "e1")
    files.run(DATA, "e2")
    error = error_of(files.undo, "e1")
    assert error.message == f"cannot be undone: {tmp_path}/out.csv has changed since this stage wrote it"
    assert error.error_class is ErrorClass.CONFIGURATION
    files.undo("e2")
    assert visible(tmp_path) == {"out.csv": "id,name\n9,other\n"}
    files.undo("e1")
    assert visible(tmp_path) == {}


def test_a_file_that_was_removed_since_is_no_obstacle(files, tmp_path):
    (tmp_path / "out.csv").write_text("former")
    files.run()
    (tmp_path / "out.csv").unlink()
    files.undo()
    assert visible(tmp_path) == {"out.csv": "former"}


def test_after_an_undo_a_late_attempt_is_kept_out(files, tmp_path):
    files.run()
    files.undo()
    error = error_of(files.run)
    assert error.message.startswith("the effect of this stage was undone at 20")
    assert error.error_class is ErrorClass.CANCELLED
    assert visible(tmp_path) == {}


def test_undoing_what_was_never_done_keeps_a_late_attempt_out(files, tmp_path):
    assert files.undo() == "no file was written"
    assert error_of(files.run).error_class is ErrorClass.CANCELLED
    assert visible(tmp_path) == {}


def test_what_is_forgotten_leaves_nothing_but_the_file(files, tmp_path):
    (tmp_path / "out.csv").write_text("former")
    effect = files.run().effect
    assert hidden(tmp_path) == {"lock", "json", "former"}
    for _ in range(2):
        files.discard_undo_data()
        assert hidden(tmp_path) == {"lock"}
    expected = f"cannot be undone: the record of {tmp_path}/out.csv no longer exists"
    assert error_of(files.undo, effect=effect).message == expected
    assert visible(tmp_path) == {"out.csv": CSV}


def test_a_kept_version_that_is_gone(files, tmp_path):
    (tmp_path / "out.csv").write_text("former")
    files.run()
    (former,) = tmp_path.rglob("*.former")
    former.unlink()
    expected = f"cannot be undone: the kept former version of {tmp_path}/out.csv no longer exists"
    assert error_of(files.undo).message == expected


def test_overwriting_can_be_forbidden(files, tmp_path):
    files.run(overwrite=False)
    assert files.run(overwrite=False).report["rows"] == 2
    error = error_of(files.run, execution="e2", overwrite=False)
    assert error.message == f"file {tmp_path}/out.csv already exists, and `overwrite` is false"
    assert error.error_class is ErrorClass.CONFIGURATION
    assert visible(tmp_path) == {"out.csv": CSV}


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(files, tmp_path, monkeypatch):
    original = operator.write_table
    monkeypatch.setattr(
        operator,
        "write_table",
        lambda *args: (original(*args), (tmp_path / "out.csv").write_text("somebody's")),
    )
    assert error_of(files.run, overwrite=False).message.endswith("already exists, and `overwrite` is false")
    assert visible(tmp_path) == {"out.csv": "somebody's"}


@pytest.mark.parametrize("path", ["x.csv", "x.parquet", "x.arrow", "x.ndjson", "x.json"])
def test_failed_attempts_leave_no_temporary_file(files, tmp_path, path):
    broken = pl.LazyFrame({"s": ["x"]}).with_columns(pl.col("s").str.to_integer())
    for _ in range(20):  # a file that polars makes itself may appear after the error, now and then
        with pytest.raises(pl.exceptions.PolarsError):
            files.operator(path=path).run(context(broken, files.access))
    assert visible(tmp_path) == {}
    assert files.run(path=path).report["rows"] == 2


def test_a_former_version_is_copied_where_there_are_no_hard_links(files, tmp_path, monkeypatch):
    def refuse(self: Path, target: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "out.csv").write_text("former")
    files.run()
    files.undo()
    assert visible(tmp_path) == {"out.csv": "former"}


def test_an_input_without_rows_gives_an_empty_file(files, tmp_path):
    assert files.run(DATA.head(0)).report["rows"] == 0
    assert visible(tmp_path) == {"out.csv": "id,name\n"}


# several attempts


def test_an_attempt_that_was_overtaken_gives_up(files, tmp_path, monkeypatch):
    original = operator.write_table

    def write_slowly(*args: object) -> None:
        original(*args)
        if len(calls) == 0:  # while the first attempt writes, a second one starts, and ends
            calls.append(1)
            calls.append(files.run(OTHER).effect)

    calls: list[object] = []
    monkeypatch.setattr(operator, "write_table", write_slowly)
    error = error_of(files.run)
    assert (error.message, error.error_class) == ("another attempt of this stage has taken over", ErrorClass.TRANSIENT)
    assert visible(tmp_path) == {"out.csv": "id,name\n9,other\n"}
    assert files.run().effect == calls[1]


def test_an_attempt_that_was_overtaken_at_the_last_moment_gives_up(files, tmp_path, monkeypatch):
    original = storage.LocalStorage.seal

    def seal_and_be_overtaken(self: storage.LocalStorage, *args: object) -> None:
        original(self, *args)
        with monkeypatch.context() as patched:
            patched.setattr(storage.LocalStorage, "discard", lambda *args: None)  # the next one gets no further
            files.operator()._publication(context(DATA, files.access)).begin(f"{tmp_path}/out.csv", overwrite=True)

    with monkeypatch.context() as patched:
        patched.setattr(storage.LocalStorage, "seal", seal_and_be_overtaken)
        assert error_of(files.run).message == "another attempt of this stage has taken over"
    assert visible(tmp_path) == {}
    assert files.run().report["rows"] == 2


def test_an_attempt_that_was_undone_meanwhile_gives_up(files, tmp_path, monkeypatch):
    original = operator.write_table
    monkeypatch.setattr(operator, "write_table", lambda *args: (original(*args), files.undo()))
    assert error_of(files.run).message == "another attempt of this stage has taken over"
    assert visible(tmp_path) == {}


def test_a_lock_that_is_held_is_waited_for_and_then_told(files, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_LOCK_SECONDS", 0.05)
    (tmp_path / ".flexiroaster/outputs").mkdir(parents=True)
    with (tmp_path / ".flexiroaster/outputs/lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = error_of(files.run)
    assert error.message == "another process has held the lock on output files for more than 0.05 s"
    assert error.error_class is ErrorClass.TRANSIENT
    assert files.run().report["rows"] == 2


# death, before every single change of the file system

KILL = """
moments = iter(range(1000))
watched = {{"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.chmod"}}
def hook(event, arguments):
    if event not in watched or not str(arguments[0]).startswith({folder!r}):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if next(moments) == {moment}:
        die()
def watch():
    sys.addaudithook(hook)
watch()
"""


def deaths(folder: Path, action: str = "run"):
    """Let the action die at its first, second, ... change of the folder, until one is not reached any more."""
    config = {"destination": "file", "path": str(folder / "out.csv")}
    for moment in range(100):
        sabotage = KILL.format(folder=str(folder), moment=moment)
        died = run_and_die(sabotage, config, {"file_roots": (str(folder),)}, DATA, action)
        yield moment
        if not died:
            assert moment > 3, "the hook saw too little"
            return


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    (made / "out.csv").write_text("former")
    return made


def fresh(folder: Path) -> None:
    """Back to the beginning."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "out.csv").write_text("former")


def test_after_any_death_the_next_attempt_completes_it(folder):
    files = Files(str(folder), path=str(folder / "out.csv"))
    for _ in deaths(folder):
        assert (folder / "out.csv").read_text() in {"former", CSV}
        assert files.run().effect["replaced"] is True
        assert visible(folder) == {"out.csv": CSV}
        assert files.undo() == f"restored the former version of {folder}/out.csv"
        assert visible(folder) == {"out.csv": "former"}
        fresh(folder)


def test_after_any_death_an_undo_leaves_what_was_there(folder):
    files = Files(str(folder), path=str(folder / "out.csv"))
    for _ in deaths(folder):
        files.undo()
        assert visible(folder) == {"out.csv": "former"}
        assert error_of(files.run).error_class is ErrorClass.CANCELLED
        fresh(folder)


@pytest.mark.parametrize("former", ["former", None])
def test_after_any_death_of_an_undo_the_next_one_completes_it(folder, former):
    files = Files(str(folder), path=str(folder / "out.csv"))

    def begin() -> None:
        fresh(folder)
        if former is None:
            (folder / "out.csv").unlink()
        files.run()

    begin()
    for _ in deaths(folder, "undo"):
        files.undo()
        assert visible(folder) == ({"out.csv": former} if former else {})
        begin()


# elsewhere


@pytest.fixture
def remote():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield Files("memory://bucket", path="memory://bucket/a/{stage_id}.csv")
    memory.store.clear()


def stored() -> dict[str, str]:
    memory = fsspec.filesystem("memory")
    names = [name for name in memory.find("/bucket") if ".flexiroaster" not in name]
    return {name: memory.cat_file(name).decode() for name in names}


def test_a_remote_file_is_written_once_and_undone(remote):
    effect = remote.run().effect
    assert effect["path"] == "memory://bucket/a/save.csv"
    assert stored() == {"/bucket/a/save.csv": CSV}
    assert remote.run(OTHER).effect == effect
    assert stored() == {"/bucket/a/save.csv": CSV}
    assert remote.undo() == "removed memory://bucket/a/save.csv"
    assert remote.undo().startswith("was already undone")
    assert stored() == {}
    assert error_of(remote.run).error_class is ErrorClass.CANCELLED


def test_the_former_version_of_a_remote_file_is_put_back(remote):
    remote.run(OTHER, "e1")
    remote.run(DATA, "e2")
    assert error_of(remote.undo, "e1").message.endswith("has changed since this stage wrote it")
    remote.undo("e2")
    assert stored() == {"/bucket/a/save.csv": "id,name\n9,other\n"}
    remote.discard_undo_data("e1")
    remote.discard_undo_data("e2")
    assert fsspec.filesystem("memory").find("/bucket") == ["/bucket/a/save.csv"]


@pytest.mark.parametrize("uploaded", [b"", b"id,na", CSV.encode()], ids=["nothing", "a part", "all"])
def test_an_upload_that_broke_off_is_completed_and_the_former_version_is_kept(remote, monkeypatch, uploaded):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/a/save.csv", b"former")

    def break_off(self: object, source: str, target: str) -> None:
        if uploaded:
            memory.pipe_file(target, uploaded)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "put_file", break_off)
        with pytest.raises(KeyboardInterrupt):
            remote.run()
    assert remote.run().effect["replaced"] is True
    assert stored() == {"/bucket/a/save.csv": CSV}
    assert remote.undo() == "restored the former version of memory://bucket/a/save.csv"
    assert stored() == {"/bucket/a/save.csv": "former"}
