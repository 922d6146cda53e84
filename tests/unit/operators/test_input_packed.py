"""Compressed csv: read without unpacking where that works, and with the same words as ever where it does not."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.base import Access, Result, StageContext
from flexiroaster.operators.inputs import file
from flexiroaster.operators.registry import build

TABLE = pl.DataFrame({"id": range(30_000), "name": [None if i % 5 == 0 else f"name {i}" for i in range(30_000)]})
TEXT = TABLE.write_csv().encode()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(path: str, **config: Any) -> pl.LazyFrame | Result:
    operator = build(StageType.INPUT, {"source": "file", "path": path, **config}, {})
    given = operator.run(StageContext("e", "p", "s", 1, {}, Path("work"), access=Access(file_roots=(".",))))
    assert isinstance(given, pl.LazyFrame | Result)
    return given


def quick(path: str, **config: Any) -> pl.DataFrame:
    """The table, read the quick way."""
    given = run(path, **config)
    assert isinstance(given, Result)
    assert given.file is not None
    return pl.read_ipc(given.file)


def thorough(path: str, **config: Any) -> pl.DataFrame:
    """The table, read the thorough way."""
    given = run(path, **config)
    assert isinstance(given, pl.LazyFrame)
    return given.collect()


def failure(path: str, **config: Any) -> tuple[str, ErrorClass]:
    with pytest.raises(StageError) as caught:
        run(path, **config)
    return caught.value.message, caught.value.error_class


def zipped(path: str, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


def test_gzip_and_zip() -> None:
    Path("a.csv.gz").write_bytes(gzip.compress(TEXT))
    Path("b.csv.gz").write_bytes(gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]))
    Path("c").write_bytes(gzip.compress(TEXT.replace(b",", b"\t")))
    zipped("d.zip", x_csv=TEXT)
    with zipfile.ZipFile("e.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.csv", "w") as member:
        member.write(TEXT)  # its sizes stand behind it, not before
    for path in ("a.csv.gz", "b.csv.gz", "d.zip", "e.zip"):
        assert_frame_equal(quick(path), TABLE)
    assert_frame_equal(quick("c", format="tsv"), TABLE)


def test_the_options_hold() -> None:
    text = b"note\nid;name;at\n1;'a;b';2026-01-02\n2;-;2026-01-03\n"
    zipped("t.zip", x_csv=text)
    options = {"separator": ";", "quote": "'", "skip_rows": 1, "null_values": ["-"], "try_parse_dates": True}
    table = quick("t.zip", **options, schema={"id": "string"}, columns=["at", "id", "name"])
    assert table.schema == {"at": pl.Date(), "id": pl.String(), "name": pl.String()}
    assert table["name"].to_list() == ["a;b", None]
    assert failure("t.zip", **options, schema={"no": "string"}) == (
        "schema: t.zip/x.csv has no column 'no'",
        ErrorClass.CONFIGURATION,
    )


@pytest.mark.parametrize(
    "options", [{"rows": 30_000}, {"file_column": "file"}, {"encoding": "latin-1"}, {"encoding": "utf8-lossy"}]
)
def test_what_the_quick_way_does_not_know(options: dict[str, Any]) -> None:
    zipped("t.zip", x_csv=TEXT)
    assert_frame_equal(thorough("t.zip", **options).select(TABLE.columns), TABLE)


def test_other_contents_go_the_thorough_way() -> None:
    zipped("two.zip", x_csv=TEXT, y_csv=TEXT)
    assert thorough("two.zip").height == 60_000
    with zipfile.ZipFile("stored.zip", "w") as archive:
        archive.writestr("x.csv", TEXT)
    assert_frame_equal(thorough("stored.zip"), TABLE)
    zipped("utf16.zip", x_csv=TEXT.decode().encode("utf-16-le"))
    assert_frame_equal(thorough("utf16.zip", encoding="utf-16-le"), TABLE)
    assert failure("utf16.zip") == (
        "utf16.zip/x.csv: is not UTF-8 text (it has NUL bytes); if it is UTF-16, set `encoding`",
        ErrorClass.DATA,
    )
    zipped("empty.zip", x_csv=b"")
    assert failure("empty.zip") == ("empty.zip/x.csv: file is empty", ErrorClass.DATA)


def damaged_gzip() -> dict[str, bytes]:
    whole = gzip.compress(TEXT)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "truncated": whole[: len(whole) // 2],
        "without its trailer": whole[:-8],
        "of another checksum": whole[:-8] + b"\0\0\0\0" + whole[-4:],
        "changed": bytes(flipped),
        "followed by garbage": whole + b"garbage" * 9,
    }


@pytest.mark.parametrize("damage", damaged_gzip())
def test_damage_far_into_a_gzip(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it is what the thorough way says, and nothing is left of what was written."""
    Path("t.csv.gz").write_bytes(damaged_gzip()[damage])
    found = failure("t.csv.gz")
    assert found[0].startswith("t.csv.gz: cannot be decompressed: ")
    assert found[1] is ErrorClass.DATA
    assert not Path("work/input/table.arrow").exists()
    monkeypatch.setattr(file, "_as_packed_csv", lambda *_arguments: None)
    assert failure("t.csv.gz") == found


def test_a_zip_that_lies() -> None:
    zipped("t.zip", x_csv=TEXT)
    content = bytearray(Path("t.zip").read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 24, 100)  # the size it says to have when decompressed
    Path("t.zip").write_bytes(content)
    assert failure("t.zip") == ("t.zip: cannot be decompressed: Bad CRC-32 for file 'x.csv'", ErrorClass.DATA)


def test_a_value_far_into_the_file_that_does_not_fit() -> None:
    lines = TEXT.splitlines(keepends=True)
    lines[20_000] = b"x,y\n"
    zipped("t.zip", x_csv=b"".join(lines))
    expected = (
        "t.zip/x.csv: line 20001: column 'id': 'x' does not fit integer, the type of the first rows: "
        "set another type in `schema`"
    )
    assert failure("t.zip") == (expected, ErrorClass.DATA)
