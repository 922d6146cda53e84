"""Rows into tables, on both databases."""

from __future__ import annotations

import logging
import math
import threading
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest
from pydantic import ValidationError
from sqlalchemy import inspect

from flexiroaster.errors import ErrorClass
from flexiroaster.operators.base import Access
from flexiroaster.operators.outputs.database.operator import DatabaseOutput, DatabaseOutputConfig
from flexiroaster.operators.outputs.effects import default_table
from tests.unit.operators.output_attempts import Base, context, error_of

PEOPLE = pl.DataFrame({"id": [1, 2], "name": ["Ada", None]})


def test_a_table_is_created_and_filled(base):
    result = base.run(PEOPLE)
    assert base.rows("SELECT id, name, _execution_id, _stage_id FROM t ORDER BY id") == [
        (1, "Ada", "e1", "save"),
        (2, None, "e1", "save"),
    ]
    assert result.effect == base.effect()
    assert result.effect == {
        "kind": "database",
        "mode": "append",
        "connection": None,
        "schema": "public" if base.is_postgres else None,
        "table": "t",
        "rows": 2,
        "undoable": True,
        "created": True,
        "undo": "tracking",
    }
    assert result.report == {"rows": 2, "table": "t"}
    assert result.passthrough_stage == "in"


TYPES = {
    "i8": (pl.Int8, [1], "SMALLINT", "SMALLINT"),
    "u16": (pl.UInt16, [65535], "INTEGER", "INTEGER"),
    "u32": (pl.UInt32, [2**32 - 1], "BIGINT", "BIGINT"),
    "u64": (pl.UInt64, [2**63 - 1], "NUMERIC(20, 0)", "BIGINT"),
    "f32": (pl.Float32, [0.5], "REAL", "REAL"),
    "f64": (pl.Float64, [0.1], "DOUBLE PRECISION", "DOUBLE"),
    "flag": (pl.Boolean, [True], "BOOLEAN", "BOOLEAN"),
    "text": (pl.String, ['é "q", \\.\n'], "TEXT", "TEXT"),
    "cat": (pl.Categorical, ["x"], "TEXT", "TEXT"),
    "day": (pl.Date, [date(2026, 2, 28)], "DATE", "DATE"),
    "at": (pl.Datetime("ns"), [datetime(2026, 1, 2, 3, 4, 5, 6)], "TIMESTAMP", "DATETIME"),
    "zoned": (pl.Datetime("us", "Europe/Berlin"), [datetime(2026, 7, 1, 12, tzinfo=UTC)], "TIMESTAMP", "DATETIME"),
    "clock": (pl.Time, [time(23, 59, 58, 7)], "TIME", "TIME"),
    "span": (pl.Duration("ms"), [timedelta(days=400, milliseconds=-1)], "INTERVAL", "BIGINT"),
    "price": (pl.Decimal(10, 2), [Decimal("12.30")], "NUMERIC(10, 2)", "NUMERIC(10, 2)"),
    "exact": (pl.Decimal(30, 2), [Decimal("1234567890123456789012.34")], "NUMERIC(30, 2)", "TEXT"),
    "raw": (pl.Binary, [b"\x00\xff"], "BYTEA", "BLOB"),
    "tags": (pl.List(pl.String), [["a", None]], "TEXT", "TEXT"),
    "point": (pl.Struct({"x": pl.Float64, "d": pl.Date}), [{"x": math.nan, "d": date(2026, 1, 1)}], "TEXT", "TEXT"),
    "nothing": (pl.Null, [None], "TEXT", "TEXT"),
}


def test_every_type_has_its_column_and_its_value(base):
    data = pl.DataFrame(
        {name: pl.Series(values, dtype=dtype) for name, (dtype, values, _, _) in TYPES.items() if name != "zoned"}
    ).with_columns(zoned=pl.Series(TYPES["zoned"][1]).dt.convert_time_zone("Europe/Berlin"))
    base.run(data.select(list(TYPES)), track=False)
    found = {column["name"]: column["type"] for column in inspect(base.engine).get_columns("t")}
    side = 2 if base.is_postgres else 3
    assert {name: str(kind) for name, kind in found.items()} == {name: spec[side] for name, spec in TYPES.items()}
    (row,) = base.rows()
    got = dict(zip(TYPES, row, strict=True))
    expected = {name: spec[1][0] for name, spec in TYPES.items()}
    expected |= {"tags": '["a",null]', "point": '{"x":null,"d":"2026-01-01"}'}
    if base.is_postgres:
        assert [found[name].timezone for name in ("at", "zoned")] == [False, True]
    else:
        expected |= {
            "flag": 1,
            "day": "2026-02-28",
            "at": "2026-01-02 03:04:05.000006",
            "zoned": "2026-07-01 12:00:00.000000+00:00",
            "clock": "23:59:58.000007",
            "span": (400 * 86_400_000 - 1) * 1000,
            "price": 12.3,
            "exact": "1234567890123456789012.34",
        }
    assert got == expected


def test_a_second_append_of_every_type_finds_the_columns_fitting(base):
    data = pl.DataFrame(
        {name: pl.Series(values, dtype=spec) for name, (spec, values, _, _) in TYPES.items() if name != "zoned"}
    )
    base.run(data)
    base.run(data, "e2")
    assert base.rows("SELECT count(*) FROM t") == [(2,)]


def test_missing_values_empty_strings_and_special_floats(base):
    data = pl.DataFrame({"n": [1, 2, 3, 4], "s": ["", None, "NaN", "\\N"], "f": [math.inf, -math.inf, math.nan, None]})
    base.run(data, track=False)
    rows = base.rows()
    assert [row[1] for row in rows] == ["", None, "NaN", "\\N"]
    assert [row[2] for row in rows[:2]] == [math.inf, -math.inf]
    assert rows[3][2] is None
    assert math.isnan(rows[2][2]) if base.is_postgres else rows[2][2] is None


def test_a_single_column_keeps_its_missing_values(base):
    base.run(pl.DataFrame({"s": ["a", None, "", "\\."]}), track=False)
    assert base.rows("SELECT s FROM t") == [("a",), (None,), ("",), ("\\.",)]


def test_columns_go_by_name_and_those_the_data_lacks_become_null_or_their_default(base):
    base.execute("CREATE TABLE t (b TEXT, a BIGINT, c INTEGER, d INTEGER NOT NULL DEFAULT 7)")
    base.run(pl.DataFrame({"a": [1], "b": ["x"]}))
    assert base.rows("SELECT a, b, c, d FROM t") == [(1, "x", None, 7)]


def test_names_are_quoted_whatever_is_in_them(base):
    hostile = 'a"; DROP TABLE t; --'
    data = pl.DataFrame({hostile: [1], "b%s": [2], "c:d": [3], "select": [4], "e'": [5]})
    for execution, mode in (("e1", "append"), ("e2", "append"), ("e3", "replace")):
        base.run(data, execution, table='x"y%(z)s', mode=mode)
    base.run(data, "e4", table="u%p", mode="upsert", key=[hostile, "b%s"])
    assert {'x"y%(z)s', "u%p"} <= base.tables()
    assert base.undo("e4", table="u%p", mode="upsert", key=[hostile]).endswith("which this stage had created")
    assert base.undo("e3", table='x"y%(z)s').startswith("restored the former table")
    assert base.undo("e2", table='x"y%(z)s') == "deleted 1 row from 'x\"y%(z)s'"


def test_many_rows_go_in_batches_and_progress_is_told(base):
    progress = []
    data = context(pl.LazyFrame({"n": pl.int_range(2500, eager=True)}), base.access)
    object.__setattr__(data, "report_progress", lambda fraction, message: progress.append((fraction, message)))
    base.operator(batch_size=1000).run(data)
    assert base.rows("SELECT count(*), min(n), max(n), count(DISTINCT n) FROM t") == [(2500, 0, 2499, 2500)]
    assert progress == [
        (0.4, "1,000 of 2,500 rows written"),
        (0.8, "2,000 of 2,500 rows written"),
        (1.0, "2,500 of 2,500 rows written"),
    ]


# what is refused, and in which words


def test_columns_that_the_table_lacks_are_named(base):
    base.execute("CREATE TABLE t (id BIGINT, title TEXT)")
    error = error_of(base.run, PEOPLE.with_columns(age=pl.lit(3)))
    assert error.message == "table 't' has no column 'name', 'age'; it has 'id', 'title'"
    assert error.error_class is ErrorClass.DATA
    assert base.rows() == []


def test_columns_that_the_table_requires_are_named(base):
    base.execute("CREATE TABLE t (id BIGINT, name TEXT, born DATE NOT NULL, kin TEXT NOT NULL)")
    assert (
        error_of(base.run, PEOPLE).message
        == "table 't' needs a value for column 'born', 'kin', which the data does not have"
    )


@pytest.mark.parametrize(
    ("series", "column", "expected"),
    [
        (pl.Series(["x"]), "INTEGER", "String"),
        (pl.Series([1.5]), "INTEGER", "Float64"),
        (pl.Series([1]), "TEXT", "Int64"),
        (pl.Series([True]), "INTEGER", "Boolean"),
        (pl.Series([1]), "BOOLEAN", "Int64"),
        (pl.Series(["2026-01-01"]), "DATE", "String"),
        (pl.Series([[1]]), "INTEGER", "List(Int64)"),
    ],
)
def test_types_that_do_not_fit_are_named(base, series, column, expected):
    base.execute(f"CREATE TABLE t (v {column})")
    error = error_of(base.run, pl.DataFrame({"v": series}))
    assert error.message == f"column 'v': the data is {expected}, but in table 't' it is {column}; cast it"
    assert error.error_class is ErrorClass.DATA


@pytest.mark.parametrize(
    ("value", "zone", "column"),
    [(datetime(2026, 1, 1), None, "TIMESTAMP WITH TIME ZONE"), (datetime(2026, 1, 1), "UTC", "TIMESTAMP")],
)
def test_a_time_zone_is_neither_invented_nor_lost(postgres, value, zone, column):
    postgres.execute(f"CREATE TABLE t (v {column})")
    data = pl.DataFrame({"v": pl.Series([value]).dt.replace_time_zone(zone)})
    assert error_of(postgres.run, data).message.startswith("column 'v': the data is Datetime(")


@pytest.mark.parametrize(
    ("series", "column"),
    [
        (pl.Series([1]), "NUMERIC(10,2)"),
        (pl.Series([1], dtype=pl.Int32), "BIGINT"),
        (pl.Series([1.5]), "NUMERIC(10,2)"),
        (pl.Series([Decimal("1.5")]), "DOUBLE PRECISION"),
        (pl.Series([date(2026, 1, 1)]), "TIMESTAMP"),
        (pl.Series(["x"]), "VARCHAR(10)"),
        (pl.Series([None]), "INTEGER"),
    ],
)
def test_types_that_widen_are_taken(base, series, column):
    base.execute(f"CREATE TABLE t (v {column})")
    base.run(pl.DataFrame({"v": series}))
    assert base.rows("SELECT count(*) FROM t") == [(1,)]


def test_postgresql_types_that_are_written_as_text(postgres):
    postgres.execute("CREATE TYPE mood AS ENUM ('ok', 'bad')", "CREATE TABLE t (a UUID, b JSONB, c mood, d INET)")
    text = {"a": "8f14e45f-ceea-467f-a0e6-000000000001", "c": "ok", "d": "10.0.0.1"}
    postgres.run(pl.DataFrame({**{k: [v] for k, v in text.items()}, "b": [{"x": [1, None]}]}))
    assert postgres.rows("SELECT a::text, b, c::text, host(d) FROM t") == [
        (text["a"], {"x": [1, None]}, "ok", "10.0.0.1")
    ]
    error = error_of(postgres.run, pl.DataFrame({"c": ["great"]}), "e2")
    assert error.message == (
        'the database refused the data: invalid input value for enum mood: "great"; COPY t, line 1, column c: "great"'
    )


def test_a_missing_value_where_none_is_allowed(base):
    base.execute("CREATE TABLE t (id BIGINT, name TEXT NOT NULL)")
    error = error_of(base.run, PEOPLE)
    assert error.error_class is ErrorClass.DATA
    assert "name" in error.message
    assert error.message.startswith("the database refused the data: ")
    assert base.rows("SELECT * FROM t") == []
    assert base.rows("SELECT * FROM flexiroaster_effects") == []


def test_a_number_out_of_range_is_named_with_its_row(postgres):
    postgres.execute("CREATE TABLE t (n INTEGER)")
    assert error_of(postgres.run, pl.DataFrame({"n": [1, 2**40]})).message == (
        'the database refused the data: value "1099511627776" is out of range for type integer; '
        'COPY t, line 2, column n: "1099511627776"'
    )


def test_nul_characters_are_refused_by_column(postgres):
    error = error_of(postgres.run, pl.DataFrame({"id": [1], "note": ["a\0b"]}))
    assert error.message == ("column 'note' holds text with a NUL character, which PostgreSQL cannot store; replace it")
    assert error.error_class is ErrorClass.DATA
    assert postgres.tables() == {"flexiroaster_effects"}


def test_integers_that_sqlite_cannot_store(tmp_path):
    base = Base(f"sqlite:///{tmp_path}/x.db")
    error = error_of(base.run, pl.DataFrame({"n": pl.Series([2**63], dtype=pl.UInt64)}))
    assert error.message == "column 'n' holds an integer beyond 64 bits, which SQLite cannot store; cast it to text"


def test_names_that_the_database_cannot_give(tmp_path, postgres):
    sqlite = Base(f"sqlite:///{tmp_path}/x.db")
    assert error_of(sqlite.run, pl.DataFrame({"a": [1], "A": [2]})).message == (
        "columns 'a' and 'A' are the same to SQLite, which ignores case; rename one"
    )
    postgres.run(pl.DataFrame({"a": [1], "A": [2]}))
    long = "é" * 32
    assert error_of(postgres.run, pl.DataFrame({long: [1]}), "e2", table="u").message == (
        f"column '{long}': PostgreSQL names have at most 63 bytes; rename it"
    )
    assert error_of(postgres.run, pl.DataFrame({"": [1]}), "e2", table="u").message == (
        "a column named '' cannot be written to a database; rename it"
    )


def test_columns_that_the_table_computes(postgres):
    postgres.execute("CREATE TABLE t (a BIGINT, b BIGINT GENERATED ALWAYS AS (a * 2) STORED)")
    postgres.run(pl.DataFrame({"a": [2]}))
    assert postgres.rows("SELECT b FROM t") == [(4,)]
    assert error_of(postgres.run, pl.DataFrame({"a": [2], "b": [4]}), "e2").message == (
        "table 't' computes column 'b' itself; leave it out of the data"
    )


def test_views_are_not_written_to(base):
    base.execute("CREATE TABLE s (id BIGINT, name TEXT)", "CREATE VIEW t AS SELECT * FROM s")
    error = error_of(base.run, PEOPLE)
    assert (error.message, error.error_class) == ("'t' is a view: outputs write to tables", ErrorClass.CONFIGURATION)


def test_data_that_brings_tracking_columns_along(base):
    data = pl.DataFrame({"_execution_id": ["other"], "n": [1]})
    assert error_of(base.run, data).message == (
        "the data has a column '_execution_id', which this output uses to record which stage wrote a row: "
        "drop or rename it, or set `track` to false"
    )
    base.run(data, track=False)
    assert base.rows() == [("other", 1)]


# where to


def test_a_table_without_a_name_is_named_after_pipeline_and_stage(base):
    result = base.run(PEOPLE, table=None)
    assert result.report["table"] == "daily_sales_save"
    assert base.rows("SELECT count(*) FROM daily_sales_save") == [(2,)]


@pytest.mark.parametrize(
    ("pipeline", "stage", "name"),
    [
        ("Daily Sales", "save", "daily_sales_save"),
        ("a-b.c", "x--y", "a_b_c_x_y"),
        ("Café", "Größe", "cafe_groe_aa6ec87a"),
        ("FlexiRoaster demo", "save", "output_flexiroaster_demo_save"),
        ("pg", "x", "output_pg_x"),
    ],
)
def test_names_made_of_pipeline_and_stage(pipeline, stage, name):
    assert default_table(pipeline, stage, ()) == name


def test_long_or_foreign_names_stay_apart():
    names = {default_table(pipeline, "save", ()) for pipeline in ("日本", "中国", "x" * 255, "x" * 254 + "y")}
    assert len(names) == 4
    assert all(0 < len(name) <= 63 and name.isascii() for name in names)


def test_a_named_connection(base):
    base.run(PEOPLE, connection="other")
    assert base.rows("SELECT count(*) FROM t") == [(2,)]


def test_a_schema_of_postgresql(postgres):
    postgres.execute('CREATE SCHEMA "my data"')
    for mode, execution in (("append", "e1"), ("replace", "e2")):
        postgres.run(PEOPLE, execution, schema="my data", mode=mode)
    postgres.run(PEOPLE, "e3", schema="my data", mode="upsert", key=["id"], table="u")
    assert postgres.rows('SELECT count(*) FROM "my data".t') == [(2,)]
    assert postgres.rows('SELECT count(*) FROM "my data".flexiroaster_effects') == [(3,)]
    assert postgres.tables() == set()
    assert postgres.undo("e2", schema="my data").startswith("restored the former table 't'")
    assert postgres.undo("e1", schema="my data").startswith("deleted 2 rows from 't'")
    error = error_of(postgres.run, PEOPLE, schema="nowhere")
    assert (error.message, error.error_class) == ("schema 'nowhere' does not exist", ErrorClass.CONFIGURATION)


def test_sqlite_has_no_schemas(tmp_path):
    error = error_of(Base(f"sqlite:///{tmp_path}/x.db").run, PEOPLE, schema="main")
    assert error.message == "SQLite has no schemas: leave `schema` out"


def test_no_output_database_is_configured():
    operator = DatabaseOutput(DatabaseOutputConfig())
    error = error_of(operator.run, context(PEOPLE, Access()))
    assert error.message == "there is no output database: name a `connection`, or set OUTPUT_DATABASE_URL"


@pytest.mark.parametrize(
    ("config", "path", "expected"),
    [
        ({"connection": "othr"}, "connection", "unknown connection 'othr'; did you mean 'other'?"),
        ({"table": "a.b"}, "table", "'a.b' is not a valid table name; the schema goes into `schema`"),
        ({"table": "sqlite_x"}, "table", "'sqlite_x' is reserved for SQLite; choose another name"),
        ({"table": "x" * 64}, "table", f"'{'x' * 64}' is longer than 63 bytes"),
        ({"mode": "upsert"}, "key", "is required for upsert: name the columns that identify a row"),
        ({"key": ["a", "a"]}, "key", "names a column twice"),
    ],
)
def test_what_the_check_of_a_definition_finds(config, path, expected):
    operator = DatabaseOutput(DatabaseOutputConfig.model_validate(config))
    (problem,) = operator.check(("in",), Access(connections={"other": "sqlite://"}))
    assert (problem.path, problem.message) == (path, expected)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DatabaseOutputConfig.model_validate({"tabel": "x"})


def test_no_credentials_in_errors(tmp_path):
    access = Access(output_url="postgresql://me:swordfish@127.0.0.1:1/db")
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as caught:
        DatabaseOutput(DatabaseOutputConfig()).run(context(PEOPLE, access))
    assert "swordfish" not in str(caught.value)


# once


@pytest.mark.parametrize("mode", ["append", "replace", "upsert"])
def test_a_repeated_attempt_finds_the_effect_and_writes_nothing(base, mode, caplog):
    config = {"mode": mode, "key": ["id"]}
    first = base.run(PEOPLE, **config)
    base.execute("UPDATE t SET name = 'changed since'")
    with caplog.at_level(logging.INFO, "flexiroaster.stage"):
        second = base.run(PEOPLE, **config)
    assert second == first
    assert base.rows("SELECT name FROM t") == [("changed since",)] * 2
    assert "an earlier attempt already took effect at 20" in caplog.text


def test_other_stages_and_other_executions_take_their_own_effect(base):
    for execution, stage in (("e1", "a"), ("e1", "b"), ("e2", "a")):
        base.run(PEOPLE, execution, stage)
    assert base.rows("SELECT DISTINCT _execution_id, _stage_id FROM t ORDER BY 1, 2") == [
        ("e1", "a"),
        ("e1", "b"),
        ("e2", "a"),
    ]
    assert base.rows("SELECT count(*) FROM t") == [(6,)]


@pytest.mark.parametrize("mode", ["append", "replace", "upsert"])
def test_attempts_of_one_key_at_the_same_time_take_one_effect(base, mode):
    base.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)", "INSERT INTO t VALUES (9, 'old')")
    effects, together = [], threading.Barrier(4)

    def attempt() -> None:
        together.wait()
        effects.append(base.run(PEOPLE, mode=mode, key=["id"]).effect)

    _all_at_once(attempt, 4)
    assert effects == [base.effect()] * 4
    assert len(base.rows()) == (2 if mode == "replace" else 3)


def test_stages_that_create_one_table_at_the_same_time(base):
    together = threading.Barrier(4)
    number = iter(range(4))

    def attempt() -> None:
        stage = f"s{next(number)}"
        together.wait()
        base.run(PEOPLE, stage=stage)

    _all_at_once(attempt, 4)
    assert base.rows("SELECT _stage_id, count(*) FROM t GROUP BY 1 ORDER BY 1") == [(f"s{i}", 2) for i in range(4)]
    created = base.rows("SELECT effect FROM flexiroaster_effects")
    assert sum('"created": true' in effect for (effect,) in created) == 1


def _all_at_once(call, times: int) -> None:
    failures = []

    def guarded() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# nothing to write


@pytest.mark.parametrize("data", [pl.DataFrame(), pl.DataFrame({"a": []}), PEOPLE.head(0)])
@pytest.mark.parametrize("mode", ["append", "replace", "upsert"])
def test_an_input_without_rows_changes_nothing(base, data, mode, caplog):
    result = base.run(data, mode=mode, key=["id"])
    assert (result.effect["rows"], result.report) == (0, {"rows": 0, "table": "t"})
    assert "the input has no rows: nothing is written to table 't'" in caplog.text
    assert base.tables() <= {"flexiroaster_effects"}
    assert base.undo(effect=result.effect) == "nothing was written to table 't'"


def test_replacing_with_no_rows_empties_the_table(base):
    base.run(PEOPLE, mode="replace")
    result = base.run(PEOPLE.head(0), "e2", mode="replace")
    assert result.effect["rows"] == 0
    assert base.rows() == []
    base.undo("e2", mode="replace")
    assert base.rows() == PEOPLE.rows()
