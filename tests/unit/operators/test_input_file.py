from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pytest

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators.base import Access, Result, StageContext
from flexiroaster.operators.inputs.file import FileInput
from flexiroaster.operators.registry import build, check_stage, find

TABLE = pl.DataFrame({"id": [1, 2, 3], "name": ["ann", None, "é"], "score": [1.5, 2.0, None]})


def run(tmp_path: Path, path: str | list[str], **config: Any) -> pl.LazyFrame:
    operator = build(StageType.INPUT, {"source": "file", "path": path, **config}, {})
    context = StageContext(
        *("e", "p", "s", 1, {}, tmp_path / "work"), access=Access(file_roots=(".", "memory://lake", "s3://lake"))
    )
    table = operator.run(context)
    if isinstance(table, Result):
        assert table.file is not None
        return pl.scan_ipc(table.file)
    assert isinstance(table, pl.LazyFrame)
    return table


def read(tmp_path: Path, path: str | list[str], **config: Any) -> pl.DataFrame:
    return run(tmp_path, path, **config).collect(engine="streaming")


def failure(tmp_path: Path, path: str | list[str], **config: Any) -> tuple[str, ErrorClass]:
    with pytest.raises(StageError) as caught:
        run(tmp_path, path, **config)
    return caught.value.message, caught.value.error_class


def problems(config: dict[str, Any]) -> list[tuple[str, str]]:
    stage = Stage(id="s", type=StageType.INPUT, config={"source": "file", **config})
    found: list[Problem] = list(check_stage(0, stage, {}, Access(file_roots=(".",))))
    return [(p.path.removeprefix("stages[0].config."), p.message) for p in found]


def write(frame: pl.DataFrame, path: Path) -> None:
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".tsv":
            frame.write_csv(path, separator="\t")
        case ".parquet":
            frame.write_parquet(path)
        case ".json":
            frame.write_json(path)
        case ".ndjson":
            frame.write_ndjson(path)
        case ".arrow":
            frame.write_ipc(path)


def zipped(data: bytes, member: str = "table") -> Callable[[Path], None]:
    def save(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, data)

    return save


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
FORMATS = ["csv", "tsv", "parquet", "json", "ndjson", "arrow"]


def test_it_is_registered() -> None:
    assert find("input.file") is FileInput


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_plain_compressed_and_zipped(tmp_path: Path, name: str) -> None:
    plain = tmp_path / f"table.{name}"
    write(TABLE, plain)
    assert read(tmp_path, plain.name).equals(TABLE)
    for suffix, compress in COMPRESSORS.items():
        (tmp_path / f"table.{name}{suffix}").write_bytes(compress(plain.read_bytes()))
        assert read(tmp_path, f"table.{name}{suffix}").equals(TABLE), suffix
    zipped(plain.read_bytes(), f"inside.{name}")(tmp_path / "table.zip")
    assert read(tmp_path, "table.zip").equals(TABLE)
    zipped(plain.read_bytes())(tmp_path / f"table.{name}.zip")
    assert read(tmp_path, f"table.{name}.zip").equals(TABLE)
    plain.rename(tmp_path / "table.dat")
    assert read(tmp_path, "table.dat", format=name).equals(TABLE)


def test_compression_is_seen_without_its_extension(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(gzip.compress(TABLE.write_csv().encode()))
    assert read(tmp_path, "table.csv").equals(TABLE)


def test_streams_of_several_compressed_parts(tmp_path: Path) -> None:
    for suffix, compress in COMPRESSORS.items():
        (tmp_path / f"t.csv{suffix}").write_bytes(compress(b"x\n1\n") + compress(b"2\n"))
        assert read(tmp_path, f"t.csv{suffix}")["x"].to_list() == [1, 2], suffix


def test_a_zip_with_several_members_is_their_concatenation(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("deep/b.csv", "x\n2\n")
        archive.writestr("a.csv", "x\n1\n")
        archive.writestr("../../evil.csv", "x\n0\n")
        archive.writestr("__MACOSX/._a.csv", "not a table")
        archive.mkdir("empty")
    table = read(tmp_path, "all.zip", file_column="file")
    assert table.rows() == [(0, "all.zip/../../evil.csv"), (1, "all.zip/a.csv"), (2, "all.zip/deep/b.csv")]
    assert not list(tmp_path.parent.rglob("evil.csv"))


def test_damaged_archives(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "none.zip", "w").close()
    assert failure(tmp_path, "none.zip") == ("none.zip: the zip contains no files", ErrorClass.DATA)
    for suffix, compress in COMPRESSORS.items():
        name = f"cut.csv{suffix}"
        (tmp_path / name).write_bytes(compress(TABLE.write_csv().encode() * 50)[:-9])
        message, error_class = failure(tmp_path, name)
        assert message.startswith(f"{name}: cannot be decompressed: "), message
        assert error_class is ErrorClass.DATA
        (tmp_path / name).write_bytes(b"these bytes are not compressed at all")
        compression = {"gz": "gzip", "zst": "zstd", "bz2": "bz2", "xz": "xz"}[suffix.removeprefix(".")]
        assert failure(tmp_path, name)[0] == f"{name}: is not {compression}, although its name says so"
    (tmp_path / "bad.zip").write_bytes(b"these bytes are no zip")
    assert failure(tmp_path, "bad.zip") == ("bad.zip: is not zip, although its name says so", ErrorClass.DATA)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "x\n1\n")
        archive.writestr("b.json", "[]")
    expected = "two.zip/b.json is json, but two.zip/a.csv is csv: read them separately"
    assert failure(tmp_path, "two.zip") == (expected, ErrorClass.CONFIGURATION)


@pytest.mark.parametrize("name", FORMATS)
def test_globs_and_lists_with_the_file_of_each_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for part, index in (("b", 1), ("a", 0), ("c[1]", 2)):
        write(TABLE.slice(index, 1), tmp_path / "in" / f"{part}.{name}")
    table = read(tmp_path, f"in/*.{name}", file_column="file", schema={"score": "number", "name": "string"})
    assert table["file"].to_list() == [f"in/a.{name}", f"in/b.{name}", f"in/c[1].{name}"]
    assert table.drop("file").equals(TABLE)
    listed = read(tmp_path, [f"in/b.{name}", f"in/*.{name}"], columns=["id"], file_column="file")
    assert listed.rows() == [(2, f"in/b.{name}"), (1, f"in/a.{name}"), (3, f"in/c[1].{name}")]
    message, error_class = failure(tmp_path, f"in/*.{name}", file_column="name")
    assert message == f"file_column: in/a.{name} already has a column 'name'"
    assert error_class is ErrorClass.CONFIGURATION


@pytest.mark.parametrize("name", FORMATS)
def test_columns_schema_and_rows(tmp_path: Path, name: str) -> None:
    path = f"t.{name}"
    write(TABLE, tmp_path / path)
    assert read(tmp_path, path, columns=["score", "id"]).equals(TABLE.select("score", "id"))
    assert read(tmp_path, path, rows=2).equals(TABLE.head(2))
    typed = read(tmp_path, path, schema={"id": "decimal(10,2)", "name": "categorical"})
    assert typed.schema["id"] == pl.Decimal(10, 2)
    assert typed["id"].to_list() == [Decimal(1), Decimal(2), Decimal(3)]
    assert isinstance(typed.schema["name"], pl.Categorical)
    missing = (f"columns: {path} has no column 'nam'; did you mean 'name'?", ErrorClass.CONFIGURATION)
    assert failure(tmp_path, path, columns=["nam"]) == missing
    missing = (f"schema: {path} has no column 'nam'; did you mean 'name'?", ErrorClass.CONFIGURATION)
    assert failure(tmp_path, path, schema={"nam": "string"}) == missing


@pytest.mark.parametrize("name", ["parquet", "json", "arrow", "csv"])
def test_files_without_a_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / f"t.{name}").touch()
    assert failure(tmp_path, f"t.{name}") == (f"t.{name}: file is empty", ErrorClass.DATA)


@pytest.mark.parametrize("name", ["parquet", "arrow", "json", "ndjson"])
def test_files_that_are_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / f"t.{name}").write_text("PAR? this is only text\n")
    message, error_class = failure(tmp_path, f"t.{name}")
    assert error_class is ErrorClass.DATA
    assert message.startswith(f"t.{name}: ")
    assert "\n" not in message


def test_the_dialects_of_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("# made by hand\na;b;c\n1;'x;y';-\n2;;2026-01-02\n".encode("utf-16"))
    table = read(
        tmp_path,
        "t.csv",
        separator=";",
        quote="'",
        skip_rows=1,
        null_values=["-"],
        encoding="utf-16",
        try_parse_dates=True,
    )
    assert table.to_dict(as_series=False) == {"a": [1, 2], "b": ["x;y", None], "c": [None, date(2026, 1, 2)]}
    (tmp_path / "l.csv").write_bytes("café,1\n".encode("latin-1"))
    assert read(tmp_path, "l.csv", encoding="latin-1", has_header=False).rows() == [("café", 1)]
    assert read(tmp_path, "l.csv", encoding="utf8-lossy", has_header=False).rows() == [("caf\ufffd", 1)]
    assert failure(tmp_path, "l.csv", has_header=False) == (
        "l.csv: line 1: is not UTF-8 text (byte 0xe9)",
        ErrorClass.DATA,
    )
    (tmp_path / "h.csv").write_bytes("café\n1\n".encode("latin-1"))  # polars alone would take the header
    assert failure(tmp_path, "h.csv") == ("h.csv: line 1: is not UTF-8 text (byte 0xe9)", ErrorClass.DATA)
    (tmp_path / "r.csv").write_text("caf\ufffd\n1\n")
    assert read(tmp_path, "r.csv").columns == ["caf\ufffd"]


def test_text_that_is_not_of_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a\n1\n".encode("utf-16"))
    expected = "t.csv: is not UTF-8 text (it has NUL bytes); if it is UTF-16, set `encoding`"
    assert failure(tmp_path, "t.csv") == (expected, ErrorClass.DATA)
    (tmp_path / "odd.csv").write_bytes(b"a\n1")
    message = "odd.csv: is not utf-16 text (UTF-16 stream does not start with BOM)"
    assert failure(tmp_path, "odd.csv", encoding="utf-16") == (message, ErrorClass.DATA)
    (tmp_path / "odd.csv").write_bytes(b"a\n\x81\n")
    message = "odd.csv: is not cp1252 text (byte 0x81)"
    assert failure(tmp_path, "odd.csv", encoding="cp1252") == (message, ErrorClass.DATA)


def test_types_of_csv_are_told_from_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n2\nx\n")
    assert read(tmp_path, "t.csv").schema == {"a": pl.String}
    message = (
        "t.csv: line 4: column 'a': 'x' does not fit integer, the type of the first rows: set another type in `schema`"
    )
    assert failure(tmp_path, "t.csv", infer_rows=2) == (message, ErrorClass.DATA)
    assert read(tmp_path, "t.csv", infer_rows=None).schema == {"a": pl.String}


def test_types_that_csv_cannot_have(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    message, error_class = failure(tmp_path, "t.csv", schema={"a": "duration"})
    assert message == "t.csv: unsupported data type when reading CSV: duration[μs] when reading CSV"
    assert error_class is ErrorClass.DATA
    message, _ = failure(tmp_path, "t.csv", schema={"a": "date"})
    assert message == "t.csv: line 2: column 'a': '1' does not fit date, its type in `schema`"


def test_csv_files_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("y,x\n1,2\n")
    expected = "b.csv: its columns are 'y', 'x', but those of a.csv are 'x', 'y'"
    assert failure(tmp_path, "*.csv") == (expected, ErrorClass.DATA)


def test_csv_types_fit_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("x\n1.5\n")
    assert read(tmp_path, "*.csv")["x"].to_list() == [1.0, 1.5]


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_columnar_files_with_other_columns_or_types(tmp_path: Path, name: str) -> None:
    write(pl.DataFrame({"x": [1]}), tmp_path / f"a.{name}")
    write(pl.DataFrame({"x": ["2"]}), tmp_path / f"b.{name}")
    expected = f"b.{name}: column 'x' is String, but in a.{name} it is Int64: set its type in `schema`"
    assert failure(tmp_path, f"*.{name}") == (expected, ErrorClass.DATA)
    assert read(tmp_path, f"*.{name}", schema={"x": "integer"})["x"].to_list() == [1, 2]
    write(pl.DataFrame({"z": [1]}), tmp_path / f"b.{name}")
    expected = f"b.{name}: its columns are 'z', but those of a.{name} are 'x'"
    assert failure(tmp_path, f"*.{name}") == (expected, ErrorClass.DATA)


@pytest.mark.parametrize("name", ["parquet", "arrow", "json", "ndjson"])
def test_values_that_do_not_fit_the_schema(tmp_path: Path, name: str) -> None:
    write(pl.DataFrame({"x": ["1", "two", None, "three"], "l": [[1], [2], [3], [4]]}), tmp_path / f"t.{name}")
    expected = f"t.{name}: column 'x': 2 values do not fit integer, such as 'two', 'three'"
    assert failure(tmp_path, f"t.{name}", schema={"x": "integer"}) == (expected, ErrorClass.DATA)
    expected = f"schema: column 'l' of t.{name} is List(Int64), which cannot become date"
    assert failure(tmp_path, f"t.{name}", schema={"l": "date"}) == (expected, ErrorClass.CONFIGURATION)


def test_arrows_streaming_format(tmp_path: Path) -> None:
    table = TABLE.to_arrow()
    with pa.ipc.new_stream(str(tmp_path / "t.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    assert read(tmp_path, "t.arrow").equals(TABLE)


def test_json_documents(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('\ufeff{"a": 1, "b": {"c": [1, 2]}}')
    assert read(tmp_path, "one.json").to_dicts() == [{"a": 1, "b": {"c": [1, 2]}}]
    (tmp_path / "mixed.json").write_text('[{"a": 1}, {"a": "x", "b": null}, {}]')
    assert read(tmp_path, "mixed.json").to_dicts() == [
        {"a": "1", "b": None},
        {"a": "x", "b": None},
        {"a": None, "b": None},
    ]
    (tmp_path / "bad.json").write_text('[\n{"a": 1},\n{"a": }\n]')
    message = "bad.json: line 3, column 7: not valid JSON: unexpected character, expected a JSON value"
    assert failure(tmp_path, "bad.json") == (message, ErrorClass.DATA)
    (tmp_path / "odd.json").write_text('[{"a": 1}, [2]]')
    message = "odd.json: record [1] is an array, not an object"
    assert failure(tmp_path, "odd.json") == (message, ErrorClass.DATA)
    (tmp_path / "three.json").write_text("3")
    message = "three.json: expected an array of objects, found a number"
    assert failure(tmp_path, "three.json") == (message, ErrorClass.DATA)
    (tmp_path / "dates.json").write_text('[{"d": "2026-01-02", "t": "2026-01-02T03:04:05"}]')
    table = read(tmp_path, "dates.json", schema={"d": "date", "t": "datetime"})
    assert table.row(0) == (date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5))


def test_json_lines_with_what_polars_cannot_type(tmp_path: Path) -> None:
    lines = ['{"a": 1, "b": [1]}', "", '{"a": true, "b": {"k": 1}}', '{"late": 12345678901234567890, "b": "s"}']
    (tmp_path / "t.ndjson").write_text("\n".join(lines))
    table = read(tmp_path, "t.ndjson", file_column="file")
    assert table.to_dict(as_series=False) == {
        "a": ["1", "true", None],
        "b": ["[1]", '{"k":1}', "s"],
        "file": ["t.ndjson"] * 3,
        "late": [None, None, 12345678901234567890],
    }


def test_json_lines_see_what_comes_late(tmp_path: Path) -> None:
    rows = [json.dumps({"a": i}) for i in range(12_000)] + ['{"a": 1.5, "late": "x"}']
    (tmp_path / "t.ndjson").write_text("\n".join(rows))
    table = read(tmp_path, "t.ndjson")
    assert table.schema == {"a": pl.Float64, "late": pl.String}
    assert table.row(-1) == (1.5, "x")


def test_json_lines_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"x": 1}\n')
    (tmp_path / "b.ndjson").write_text('{"x": 1.5, "y": "new"}\n')
    (tmp_path / "c.ndjson").write_text("\n")
    assert read(tmp_path, "*.ndjson").rows() == [(1.0, None), (1.5, "new")]
    assert read(tmp_path, "c.ndjson", schema={"x": "integer"}).schema == {"x": pl.Int64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n\n{"a": \n', "t.ndjson: line 3: not valid JSON: unexpected end of data (column 6)"),
        ('{"a": 1}\n[1]\n', "t.ndjson: line 2: is an array, not an object"),
        ('{"a": 1} {"a": 2}\n', "t.ndjson: line 1: not valid JSON: unexpected content after document (column 10)"),
    ],
)
def test_damaged_json_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.ndjson").write_text(text)
    assert failure(tmp_path, "t.ndjson") == (message, ErrorClass.DATA)


def test_damaged_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('x,y\n"1,2\n')
    message, error_class = failure(tmp_path, "t.csv")
    assert error_class is ErrorClass.DATA
    assert message == "t.csv: line 2: a quote is not closed, or text follows the closing quote: '\"1,2\\n'"
    (tmp_path / "t.csv").write_text("skipped\nx,y\n1,2\n1,2,3\n")
    assert failure(tmp_path, "t.csv", skip_rows=1)[0] == "t.csv: line 4: has 3 fields, but the header has 2"
    (tmp_path / "t.csv").write_text("\n\n")
    assert failure(tmp_path, "t.csv") == ("t.csv: file is empty", ErrorClass.DATA)


def test_remote_files(tmp_path: Path) -> None:
    lake = fsspec.filesystem("memory")
    lake.pipe({"/lake/in/b.csv.gz": gzip.compress(b"x\n2\n"), "/lake/in/a.csv": b"x\n1\n"})
    table = read(tmp_path, "memory://lake/in/*", file_column="file")
    assert table["x"].to_list() == [1, 2]
    assert [name.rpartition("/")[2] for name in table["file"]] == ["a.csv", "b.csv.gz"]
    expected = "s3:// needs a package that is not installed: Install s3fs to access S3"
    assert failure(tmp_path, "s3://lake/x.csv") == (expected, ErrorClass.CONFIGURATION)


def test_files_out_of_bounds_or_not_there(tmp_path: Path) -> None:
    expected = "file '/etc/passwd' is outside the allowed roots (FILE_ROOTS): ., memory://lake, s3://lake"
    assert failure(tmp_path, "/etc/passwd", format="csv") == (expected, ErrorClass.CONFIGURATION)
    assert failure(tmp_path, "*.csv") == ("no file matches '*.csv'", ErrorClass.CONFIGURATION)
    (tmp_path / "t.dat").write_text("x\n")
    message = failure(tmp_path, "t.dat")[0]
    assert message.startswith("cannot tell the format of 't.dat' from its name (known suffixes: .csv, ")


def test_problems_of_a_config() -> None:
    assert problems({"path": "x.csv", "schema": {"a": "integer"}}) == []
    assert problems({"path": "x.zip"}) == []
    assert problems({"path": "${file}"}) == []
    assert problems({}) == [("path", "is required")]
    outside = "file '/etc/x.csv' is outside the allowed roots (FILE_ROOTS): ."
    assert problems({"path": ["a.csv", "/etc/x.csv"]}) == [("path[1]", outside)]
    ((path, message),) = problems({"path": "x.dat"})
    assert path == "format"
    assert message.startswith("cannot tell the format of 'x.dat'")
    assert problems({"path": "a.csv", "schema": {"a": "intger"}}) == [
        ("schema.a", "unknown type 'intger'; did you mean 'integer' or 'int'?")
    ]
    assert problems({"path": "a.csv", "encoding": "utf-9"}) == [("encoding", "unknown encoding 'utf-9'")]
    assert problems({"path": "a.csv", "separator": "||"}) == [("separator", "must be one ASCII character, not '||'")]
    assert problems({"path": "a.csv", "format": "xml"})[0][0] == "format"
    assert problems({"path": "a.csv", "schema_": {"a": "date"}})[0][0] == "schema_"


@pytest.mark.parametrize("members", [1, 2], ids=["while it is read", "before it is read"])
def test_a_zipped_csv_larger_than_the_memory_it_takes(tmp_path: Path, members: int) -> None:
    """Some 250 MB of csv a member, zipped, through the operator into an Arrow file: memory stays far below the size.

    One member is decompressed while it is read, several are before. What polars reads ahead depends on how its threads
    are scheduled, some 100 to 200 MB whatever the size of the file, so the sizes here are well above that.
    """
    rows_of_text = "".join(
        f"{i},name-{i},{i * 7919 % 1_000_003}.25,2026-01-02T03:04:05,some more text here\n" for i in range(4000)
    ).encode()
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(members):
            with archive.open(f"{number}.csv", "w", force_zip64=True) as member:
                member.write(b"id,name,value,at,text\n")
                for _ in range(1000):
                    member.write(rows_of_text)
    script = """
        from pathlib import Path
        import polars as pl
        from flexiroaster.operators.base import Access, StageContext
        from flexiroaster.operators.inputs.file import FileConfig, FileInput
        import flexiroaster.operators.inputs.scanning
        def peak():  # of this program alone: getrusage counts the process before exec as well
            (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) // 1024
        context = StageContext("e", "p", "s", 1, {}, Path("work"), access=Access(file_roots=(".",)))
        before = peak()
        table = FileInput(FileConfig(path="big.zip")).run(context)
        unpacked = peak()
        Path(table.file).rename("big.arrow") if quick else table.sink_ipc("big.arrow")
        after = peak()
        rows = pl.scan_ipc("big.arrow").select(pl.len()).collect().item()
        print(before, unpacked, after, rows)
    """
    command = [sys.executable, "-c", f"quick = {members == 1}\n{textwrap.dedent(script)}"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},  # each thread has buffers of its own
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    before, unpacked, after, rows = map(int, done.stdout.split())
    assert rows == 4_000_000 * members
    size = (tmp_path / "big.arrow").stat().st_size >> 20
    assert size > 300 * members
    if members > 1:
        text = members * 1000 * len(rows_of_text) >> 20
        assert text > 450
        assert unpacked - before < text - 50, "unpacking and looking at the types takes blocks and what is read ahead"
    assert after - before < size, "reading all at once would take the text and the table, twice that"
