from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import Stage, StageType
from flexiroaster.operators.base import Access, StageContext
from flexiroaster.operators.inputs.sql import SqlConfig, SqlInput
from flexiroaster.operators.registry import check_stage, find


def read(tmp_path: Path, url: str, query: str, **config: Any) -> pl.DataFrame:
    context = StageContext(
        execution_id="e",
        pipeline_name="p",
        stage_id="s",
        attempt=1,
        inputs={},
        workdir=tmp_path / "work",
        access=Access(connections={"shop": url}),
    )
    return SqlInput(SqlConfig(connection="shop", query=query, **config)).run(context).collect()


def failure(tmp_path: Path, url: str, query: str, **config: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        read(tmp_path, url, query, **config)
    return caught.value


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    path = tmp_path / "shop # 1.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER, price, note)")
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(i, i / 2, None) for i in range(10)])
    connection.close()
    return f"sqlite:///{path}"


def problems(config: Mapping[str, Any], access: Access) -> list[Problem]:
    stage = Stage(id="s", type=StageType.INPUT, config={"source": "sql", **config})
    return list(check_stage(0, stage, {}, access))


def test_it_is_registered() -> None:
    assert find("input.sql") is SqlInput


def test_a_query_with_parameters_on_sqlite(tmp_path: Path, sqlite_url: str) -> None:
    table = read(
        tmp_path,
        sqlite_url,
        "SELECT id, price FROM orders WHERE id > :least AND id NOT IN :others ORDER BY id",
        parameters={"least": 6, "others": [8]},
    )
    assert table.to_dict(as_series=False) == {"id": [7, 9], "price": [3.5, 4.5]}


def test_types_hold_for_all_batches(tmp_path: Path) -> None:
    path = tmp_path / "mixed.db"
    rows = [(None, 1, 1, None), (None, 2, 2, None), (3, 2.5, "x", b"\x00\xff"), (None, 4, 3.5, None)]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mixed (late, number, mixed, bytes)")
        connection.executemany("INSERT INTO mixed VALUES (?, ?, ?, ?)", rows)
    connection.close()
    table = read(tmp_path, f"sqlite:///{path}", "SELECT * FROM mixed ORDER BY rowid", batch_size=1)
    assert table.schema == {"late": pl.Int64, "number": pl.Float64, "mixed": pl.String, "bytes": pl.Binary}
    assert table.rows() == [
        (None, 1.0, "1", None),
        (None, 2.0, "2", None),
        (3, 2.5, "x", b"\x00\xff"),
        (None, 4.0, "3.5", None),
    ]


def test_a_result_without_rows_keeps_its_columns(tmp_path: Path, sqlite_url: str) -> None:
    table = read(tmp_path, sqlite_url, "SELECT id, note FROM orders WHERE id < 0")
    assert table.columns == ["id", "note"]
    assert table.height == 0


def test_every_type_of_postgresql(tmp_path: Path, postgres_url: str) -> None:
    query = """
        SELECT 1::smallint AS small, 1.5::float4 AS real, 12.34::numeric(10, 2) AS price, true AS flag, 'é' AS words,
               '\\x00ff'::bytea AS raw, date '2026-02-28' AS day, timestamp '2026-02-28 10:00' AS local,
               timestamptz '2026-02-28 10:00+02' AS instant, time '10:30' AS clock, interval '90 seconds' AS span,
               'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS key, '{"a": [1, 2], "b": null}'::jsonb AS document,
               ARRAY[1, NULL, 3] AS list, inet '10.0.0.1' AS address
    """
    table = read(tmp_path, postgres_url, query)
    assert dict(table.schema) == {
        "small": pl.Int64,
        "real": pl.Float64,
        "price": pl.Decimal(38, 2),
        "flag": pl.Boolean,
        "words": pl.String,
        "raw": pl.Binary,
        "day": pl.Date,
        "local": pl.Datetime("us"),
        "instant": pl.Datetime("us", "UTC"),
        "clock": pl.Time,
        "span": pl.Duration("us"),
        "key": pl.String,
        "document": pl.Struct({"a": pl.List(pl.Int64), "b": pl.Null}),
        "list": pl.List(pl.Int64),
        "address": pl.String,
    }
    assert table.row(0) == (
        *(1, 1.5, Decimal("12.34"), True, "é", b"\x00\xff", date(2026, 2, 28), datetime(2026, 2, 28, 10)),
        datetime(2026, 2, 28, 8, tzinfo=UTC),
        *(time(10, 30), timedelta(seconds=90), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        *({"a": [1, 2], "b": None}, [1, None, 3], "10.0.0.1"),
    )


def test_postgresql_declares_the_types_of_columns_without_values(tmp_path: Path, postgres_url: str) -> None:
    query = "SELECT NULL::int AS i, NULL::numeric(12, 3) AS n, NULL::timestamptz AS t, NULL::uuid AS u, NULL::text AS s"
    expected = {"i": pl.Int64, "n": pl.Decimal(38, 3), "t": pl.Datetime("us", "UTC"), "u": pl.String, "s": pl.String}
    assert read(tmp_path, postgres_url, query).schema == expected
    assert read(tmp_path, postgres_url, f"{query} WHERE false").schema == expected


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "postgres"])
def test_a_large_result_streams_in_batches(tmp_path: Path, postgres_url: str, scheme: str) -> None:
    url = scheme + postgres_url[postgres_url.index("://") :]
    query = "WITH n AS (SELECT generate_series(1, :rows) AS i) SELECT i, CASE WHEN i > 900 THEN i / 4.0 END AS x FROM n"
    table = read(tmp_path, url, query, parameters={"rows": 1000}, batch_size=100)
    assert table.height == 1000
    assert table["i"].to_list() == list(range(1, 1001))
    assert table["x"].null_count() == 900
    assert table["x"][-1] == Decimal(250)
    assert len(list((tmp_path / "work" / "query").iterdir())) == 10


def test_numbers_too_long_for_a_decimal_become_floats(tmp_path: Path, postgres_url: str) -> None:
    query = "SELECT 10::numeric ^ 30 + 0.000000000001::numeric AS x, 10::numeric(60) ^ 50 + 0 AS y"
    table = read(tmp_path, postgres_url, query)
    assert table["x"][0] == pytest.approx(1e30)


def test_nothing_can_be_written_on_sqlite(tmp_path: Path, sqlite_url: str) -> None:
    error = failure(tmp_path, sqlite_url, "DELETE FROM orders RETURNING id")
    assert error.error_class is ErrorClass.CODE
    assert error.message == "query on 'shop': attempt to write a readonly database"
    assert read(tmp_path, sqlite_url, "SELECT count(*) AS n FROM orders")["n"].to_list() == [10]


def test_other_files_cannot_be_attached_on_sqlite(tmp_path: Path, sqlite_url: str) -> None:
    error = failure(tmp_path, sqlite_url, f"ATTACH DATABASE '{tmp_path / 'other.db'}' AS other")
    assert error.error_class is ErrorClass.CONFIGURATION
    assert error.message == "query on 'shop': not authorized"
    assert not (tmp_path / "other.db").exists()


def test_nothing_can_be_written_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (i int)")
        connection.execute("CREATE FUNCTION add() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING i'")
    error = failure(tmp_path, postgres_url, "SELECT add()")
    assert error.error_class is ErrorClass.CODE
    assert error.message == "query on 'shop': cannot execute INSERT in a read-only transaction"


def test_a_wrong_statement_is_a_matter_of_code(tmp_path: Path, sqlite_url: str, postgres_url: str) -> None:
    on_sqlite = failure(tmp_path, sqlite_url, "SELECT nope FROM orders")
    assert (on_sqlite.error_class, on_sqlite.message) == (ErrorClass.CODE, "query on 'shop': no such column: nope")
    on_postgresql = failure(tmp_path, postgres_url, "SELECT * FROM nope")
    assert on_postgresql.error_class is ErrorClass.CODE
    assert on_postgresql.message == "query on 'shop': relation \"nope\" does not exist"


def test_a_value_that_cannot_be_computed_is_a_matter_of_data(tmp_path: Path, postgres_url: str) -> None:
    error = failure(tmp_path, postgres_url, "SELECT 1 / (i - 5) FROM generate_series(1, 9) AS i")
    assert (error.error_class, error.message) == (ErrorClass.DATA, "query on 'shop': division by zero")


def test_no_connection_is_transient_and_shows_no_password(tmp_path: Path) -> None:
    error = failure(tmp_path, "postgresql://ann:sesame@127.0.0.1:1/shop", "SELECT 1")
    assert error.error_class is ErrorClass.TRANSIENT
    assert error.message.startswith("connection 'shop': connection")
    assert "sesame" not in error.message
    assert "sesame" not in str(error.__cause__)


def test_an_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    error = failure(tmp_path, f"sqlite:///{tmp_path / 'none.db'}", "SELECT 1")
    assert error.error_class is ErrorClass.CONFIGURATION
    assert error.message == "connection 'shop': the SQLite file does not exist"
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is just text, and long enough to be looked at as if it were a header " * 4)
    error = failure(tmp_path, f"sqlite:///{tmp_path / 'no.db'}", "SELECT 1 FROM t")
    assert error.error_class is ErrorClass.DATA
    assert error.message.endswith("file is not a database")


def test_a_query_that_takes_too_long_is_ended(tmp_path: Path, sqlite_url: str, postgres_url: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
    on_sqlite = failure(tmp_path, sqlite_url, endless, timeout=0.05)
    assert (on_sqlite.error_class, on_sqlite.message) == (ErrorClass.TIMEOUT, "query on 'shop': interrupted")
    on_postgresql = failure(tmp_path, postgres_url, endless, timeout=0.05)
    assert on_postgresql.error_class is ErrorClass.TIMEOUT
    assert on_postgresql.message == "query on 'shop': canceling statement due to statement timeout"
    assert read(tmp_path, sqlite_url, "SELECT 1 AS one")["one"].to_list() == [1]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, sqlite_url: str) -> None:
    assert read(tmp_path, sqlite_url, "SELECT count(*) AS n FROM orders")["n"].to_list() == [10]
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    assert read(tmp_path, sqlite_url, "SELECT count(*) AS n FROM orders")["n"].to_list() == [0]


def test_two_columns_of_one_name(tmp_path: Path, sqlite_url: str) -> None:
    error = failure(tmp_path, sqlite_url, "SELECT a.id, b.id FROM orders a JOIN orders b ON a.id = b.id")
    assert error.message == "the query returns two columns named 'id': rename one of them with AS"
    assert error.error_class is ErrorClass.CODE


def test_an_unknown_connection(tmp_path: Path) -> None:
    access = Access(connections={"warehouse": "sqlite://"})
    config = {"connection": "warehous", "query": "SELECT 1"}
    message = "unknown connection 'warehous'; did you mean 'warehouse'?"
    assert problems(config, access) == [Problem("stages[0].config.connection", message, "connection")]
    context = StageContext("e", "p", "s", 1, {}, tmp_path, access=access)
    with pytest.raises(StageError, match=r"^unknown connection 'warehous'; did you mean 'warehouse'\?$"):
        SqlInput(SqlConfig(**config)).run(context)


def test_parameters_are_checked_against_the_query() -> None:
    access = Access(connections={"shop": "sqlite://"})
    query = "SELECT x::int, '12:30' FROM t WHERE day >= :since AND shop = :shop"
    found = problems({"connection": "shop", "query": query, "parameters": {"sinc": 1, "shop": 2}}, access)
    assert [(p.path, p.message) for p in found] == [
        ("stages[0].config.parameters", "has no value for :since in the query"),
        ("stages[0].config.parameters.sinc", "the query has no :sinc; did you mean 'since'?"),
    ]


def test_a_query_takes_no_placeholders() -> None:
    access = Access(connections={"shop": "sqlite://"})
    found = problems({"connection": "shop", "query": "SELECT ${column} FROM t"}, access)
    assert [(p.path, p.message) for p in found] == [
        ("stages[0].config.query", "does not accept ${...}: pass values in `parameters`")
    ]


def test_values_that_look_like_sql_stay_values(tmp_path: Path, sqlite_url: str) -> None:
    table = read(tmp_path, sqlite_url, "SELECT :x AS x", parameters={"x": "'; DROP TABLE orders; --"})
    assert table["x"].to_list() == ["'; DROP TABLE orders; --"]


def test_identifiers_of_rows_keep_their_order_across_many_batches(tmp_path: Path, postgres_url: str) -> None:
    keys = [uuid.UUID(int=i) for i in range(250)]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE keys (position int, key uuid)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO keys VALUES (%s, %s)", list(enumerate(keys)))
    table = read(tmp_path, postgres_url, "SELECT key FROM keys ORDER BY position", batch_size=7)
    assert table["key"].to_list() == list(map(str, keys))
