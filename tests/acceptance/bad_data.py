"""Data that a stage cannot use: the failing stage, the error class and the exact message."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
from typing import Any, NamedTuple

import polars as pl

from flexiroaster.errors import ErrorClass

DATA, CODE, CONFIGURATION = ErrorClass.DATA, ErrorClass.CODE, ErrorClass.CONFIGURATION


class FileCase(NamedTuple):
    """A file (absent if the content is None), the config that reads it, and the error."""

    name: str
    content: bytes | None
    config: dict[str, Any]
    error_class: ErrorClass
    message: str


class StageCase(NamedTuple):
    """The config of a stage over `ROWS`, and its error."""

    name: str
    config: dict[str, Any]
    error_class: ErrorClass
    message: str


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return buffer.getvalue()


def written(form: str) -> bytes:
    buffer = io.BytesIO()
    table = pl.DataFrame({"x": range(1000), "y": [f"text {i}" for i in range(1000)]})
    getattr(table, f"write_{form}")(buffer)
    return buffer.getvalue()


CSV = b"x,y\n1,a\n2,b\n"
PARQUET, ARROW = written("parquet"), written("ipc")
KNOWN = ".csv, .tsv, .tab, .parquet, .pq, .json, .ndjson, .jsonl, .arrow, .ipc, .feather"
NOT_TEXT = "is not UTF-8 text (it has NUL bytes); if it is UTF-16, set `encoding`"

FILES = [
    FileCase("a.csv", None, {}, CONFIGURATION, "file 'data/a.csv' does not exist"),
    FileCase("a.txt", CSV, {"path": "data/*.csv"}, CONFIGURATION, "no file matches 'data/*.csv'"),
    FileCase("sub/a.csv", CSV, {"path": "data/sub", "format": "csv"}, CONFIGURATION,
             "'data/sub' is a folder: name its files, such as 'data/sub/*.csv'"),
    # csv
    FileCase("empty.csv", b"", {}, DATA, "data/empty.csv: file is empty"),
    FileCase("blank.csv", b"\n\n", {}, DATA, "data/blank.csv: file is empty"),
    FileCase("ragged.csv", b"x,y\n1,2\n1,2,3\n4,5\n", {}, DATA,
             "data/ragged.csv: line 3: has 3 fields, but the header has 2"),
    FileCase("ragged.tsv", b"1\t2\n1\t2\t3\n", {"has_header": False}, DATA,
             "data/ragged.tsv: line 2: has 3 fields, but the first line has 2"),
    FileCase("quote.csv", b'x,y\n1,"2\n3,4\n', {}, DATA,
             "data/quote.csv: line 2: a quote is not closed, or text follows the closing quote: '\"2\\n3,4\\n'"),
    FileCase("latin.csv", "x,y\n1,é\n".encode("latin-1"), {}, DATA,
             "data/latin.csv: line 2: is not UTF-8 text (byte 0xe9)"),
    FileCase("utf16.csv", "x,y\n1,a\n".encode("utf-16"), {}, DATA, f"data/utf16.csv: {NOT_TEXT}"),
    FileCase("cp1252.csv", b"x,y\n1,\x81\n", {"encoding": "cp1252"}, DATA,
             "data/cp1252.csv: is not cp1252 text (byte 0x81)"),
    FileCase("late.csv", b"x\n" + b"1\n" * 20 + b"late\n", {"infer_rows": 5}, DATA,
             "data/late.csv: line 22: column 'x': 'late' does not fit integer, the type of the first rows: "
             "set another type in `schema`"),
    FileCase("schema.csv", b"x,y\n1,a\nz,b\n", {"schema": {"x": "integer"}}, DATA,
             "data/schema.csv: line 3: column 'x': 'z' does not fit integer, its type in `schema`"),
    FileCase("typed.csv", CSV, {"schema": {"xx": "integer"}}, CONFIGURATION,
             "schema: data/typed.csv has no column 'xx'; did you mean 'x'?"),
    FileCase("columns.csv", CSV, {"columns": ["x", "z"]}, CONFIGURATION,
             "columns: data/columns.csv has no column 'z'"),
    FileCase("file_column.csv", CSV, {"file_column": "x"}, CONFIGURATION,
             "file_column: data/file_column.csv already has a column 'x'"),
    # parquet and arrow
    FileCase("empty.parquet", b"", {}, DATA, "data/empty.parquet: file is empty"),
    FileCase("cut.parquet", PARQUET[: len(PARQUET) // 2], {}, DATA,
             "data/cut.parquet: is truncated: it does not end with the marker that it begins with"),
    FileCase("text.parquet", CSV, {}, DATA, "data/text.parquet: is not a parquet file: it does not begin with PAR1"),
    FileCase("columns.parquet", PARQUET, {"columns": ["q"]}, CONFIGURATION,
             "columns: data/columns.parquet has no column 'q'"),
    FileCase("schema.parquet", PARQUET, {"schema": {"y": "date"}}, DATA,
             "data/schema.parquet: column 'y': 1000 values do not fit date, such as 'text 0', 'text 1', 'text 2'"),
    FileCase("cut.arrow", ARROW[: len(ARROW) // 2], {}, DATA,
             "data/cut.arrow: is truncated: it does not end with the marker that it begins with"),
    FileCase("parquet.csv", PARQUET, {}, DATA,
             "data/parquet.csv: is a parquet file, not csv: set `format`, or rename it"),
    FileCase("arrow.parquet", ARROW, {}, DATA,
             "data/arrow.parquet: is an arrow file, not parquet: set `format`, or rename it"),
    # json
    FileCase("empty.json", b"", {}, DATA, "data/empty.json: file is empty"),
    FileCase("text.json", CSV, {}, DATA,
             "data/text.json: line 1, column 1: not valid JSON: unexpected character, expected a JSON value"),
    FileCase("number.json", b"3", {}, DATA, "data/number.json: expected an array of objects, found a number"),
    FileCase("mixed.json", b'[{"x": 1}, [2]]', {}, DATA, "data/mixed.json: record [1] is an array, not an object"),
    FileCase("cut.json", b'[{"x": 1}, {"x":', {}, DATA,
             "data/cut.json: line 1, column 17: not valid JSON: unexpected end of data"),
    FileCase("latin.json", '[{"x":\n"é"}]'.encode("latin-1"), {}, DATA,
             "data/latin.json: line 2: is not UTF-8 text (byte 0xe9)"),
    FileCase("schema.json", b'[{"x": "a"}]', {"schema": {"x": "integer"}}, DATA,
             "data/schema.json: column 'x': 1 value does not fit integer, such as 'a'"),
    FileCase("cut.ndjson", b'{"x": 1}\n{"x":\n', {}, DATA,
             "data/cut.ndjson: line 2: not valid JSON: unexpected end of data (column 6)"),
    FileCase("lists.ndjson", b'{"x": 1}\n[1]\n', {}, DATA,
             "data/lists.ndjson: line 2: is an array, not an object"),
    FileCase("latin.ndjson", '{"x": 1}\n{"x": "é"}\n'.encode("latin-1"), {}, DATA,
             "data/latin.ndjson: line 2: is not UTF-8 text"),
    # compressed
    FileCase("text.csv.gz", CSV, {}, DATA, "data/text.csv.gz: is not gzip, although its name says so"),
    FileCase("cut.csv.gz", gzip.compress(CSV * 1000)[:-30], {}, DATA,
             "data/cut.csv.gz: cannot be decompressed: the file is truncated"),
    FileCase("crc.csv.gz", gzip.compress(CSV)[:-8] + b"\0" * 8, {}, DATA,
             "data/crc.csv.gz: cannot be decompressed: CRC check failed 0x0 != 0x5e6ea379"),
    FileCase("cut.csv.xz", lzma.compress(CSV)[:-9], {}, DATA,
             "data/cut.csv.xz: cannot be decompressed: the file is truncated"),
    FileCase("text.csv.zst", CSV, {}, DATA, "data/text.csv.zst: is not zstd, although its name says so"),
    FileCase("text.zip", CSV, {"format": "csv"}, DATA, "data/text.zip: is not zip, although its name says so"),
    FileCase("none.zip", zipped(), {"format": "csv"}, DATA, "data/none.zip: the zip contains no files"),
    FileCase("mixed.zip", zipped(a_csv="x\n1\n", b_json="[]"), {}, CONFIGURATION,
             "data/mixed.zip/b.json is json, but data/mixed.zip/a.csv is csv: read them separately"),
    FileCase("odd.zip", zipped(a_txt="x\n1\n"), {}, CONFIGURATION,
             f"cannot tell the format of 'data/odd.zip/a.txt' from its name (known suffixes: {KNOWN}): set `format`"),
]  # fmt: skip

ROWS = [{"x": 1, "y": "a", "k": [1]}, {"x": 3, "y": "b", "k": [1]}]
COLUMNS = "columns: 'x', 'y', 'k'"

TRANSFORMS = [
    StageCase("column", {"operation": "select", "columns": ["x", "zz"]}, DATA,
              f"column 'zz' not found in input of stage 'bad'; {COLUMNS}"),
    StageCase("near column", {"operation": "normalize", "fields": ["yy"]}, DATA,
              f"column 'yy' not found in input of stage 'bad'; did you mean 'y'? {COLUMNS}"),
    StageCase("text in double quotes", {"operation": "filter", "where": 'y = "a"'}, DATA,
              f"column 'a' not found in input of stage 'bad'; text is written in single quotes: 'a'; {COLUMNS}"),
    StageCase("no condition", {"operation": "filter", "where": "x + 1"}, CODE,
              "where: must be boolean, returns integer: 'x + 1'"),
    StageCase("cast", {"operation": "cast", "columns": {"y": "integer"}}, DATA,
              "column 'y': 2 values do not fit integer, such as 'a', 'b'"),
    StageCase("cast in SQL", {"operation": "derive", "columns": {"q": "CAST(y AS INTEGER)"}}, DATA,
              "conversion from `str` to `i32` failed in column 'y' for 1 out of 1 values: [\"b\"]"),
    StageCase("aggregate of text",
              {"operation": "aggregate", "aggregations": {"m": {"column": "y", "function": "mean"}}}, DATA,
              "aggregations.m: mean needs numbers, column 'y' is string"),
    StageCase("not an aggregate", {"operation": "aggregate", "by": ["x"], "aggregations": {"n": "x"}}, CODE,
              "aggregations.n: returns a value for each row, not for each group: 'x'; wrap it, as in SUM(...)"),
    StageCase("fill", {"operation": "fill_missing", "columns": {"x": "many"}}, DATA,
              "columns.x: 'many' does not fit column 'x', which is integer"),
    StageCase("rename", {"operation": "rename", "columns": {"x": "y"}}, DATA,
              "cannot rename 'x' to 'y': input of stage 'bad' already has a column of that name"),
    StageCase("query", {"operation": "sql", "query": "SELECT zz FROM load"}, DATA,
              'query: unable to find column "zz"; valid columns: ["x", "y", "k"]'),
    StageCase("function", {"operation": "python", "function": "tests.functions:no_such_function"}, CODE,
              "module 'tests.functions' has no function 'no_such_function'"),
]  # fmt: skip

VALIDATIONS = [
    StageCase("range", {"ranges": {"x": {"min": 2}}}, DATA, "1 of 2 rows invalid: x: range (min 2): 1 row, such as 1"),
    StageCase("schema", {"schema": {"y": "integer", "z": "string"}}, DATA,
              "the table is invalid: column 'z' is missing; column 'y' is string, expected integer; "
              "'coerce: true' converts it"),
    StageCase("rows", {"rows": {"min": 10}}, DATA, "the table is invalid: 2 rows, fewer than 10"),
]  # fmt: skip

OUTPUTS = [
    StageCase("key", {"destination": "database", "table": "t", "mode": "upsert", "key": ["zz"]}, DATA,
              "the data has no column 'zz', which `key` names"),
    StageCase("nested", {"destination": "file", "path": "out/nested.csv"}, DATA,
              "column 'k': csv cannot hold lists or structs; write parquet, or convert the column"),
    StageCase("no database", {"destination": "database", "connection": "lost", "table": "t"}, CONFIGURATION,
              "the folder '/nowhere' of the SQLite database does not exist"),
]  # fmt: skip
