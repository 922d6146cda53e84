"""Stages reach the database that FlexiRoaster itself uses, but none of its own tables in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import inspect

from flexiroaster.config import load_settings
from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.databases import engine_for
from flexiroaster.operators.access.file_access import check_file_access, resolve
from flexiroaster.operators.base import Access, StageContext
from flexiroaster.operators.inputs.sql import SqlConfig, SqlInput
from flexiroaster.operators.outputs.effects import default_table
from flexiroaster.service.stage_access import access_of
from flexiroaster.store.tables import OWN_TABLES
from flexiroaster.workers.protocol import Setup
from tests.conftest import postgres_database
from tests.unit.operators.output_attempts import Base

ROWS = pl.DataFrame({"id": [7]})
DENIED = "stages have no access to FlexiRoaster's own tables"

TOKEN = (
    "INSERT INTO tokens (id, name, role, digest, created_at) "
    "VALUES ('t', 'ada', 'admin', '5e55a3e', '2026-01-01 00:00:00')"
)
COMMON = (
    TOKEN,
    "CREATE TABLE orders (id integer PRIMARY KEY)",
    "INSERT INTO orders VALUES (1), (2)",
    "CREATE VIEW holders AS SELECT name, digest FROM tokens",
    "CREATE VIEW names AS SELECT name FROM holders",
    "CREATE TABLE watched (id integer)",
)
SQLITE = ("CREATE TRIGGER spread AFTER INSERT ON watched BEGIN UPDATE tokens SET role = 'viewer'; END", "ANALYZE")
POSTGRESQL = (
    "CREATE SCHEMA elsewhere",
    "CREATE VIEW elsewhere.orders AS SELECT * FROM public.tokens",
    "CREATE MATERIALIZED VIEW copied AS SELECT * FROM names",
    "CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT min(digest) FROM tokens'",
    "CREATE VIEW hidden AS SELECT word FROM ts_stat('SELECT to_tsvector(name) FROM tokens')",
    "CREATE TABLE child () INHERITS (tokens)",
    "CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN UPDATE tokens SET role = ''viewer''; RETURN NULL; END'",
    "CREATE TRIGGER spread AFTER INSERT ON watched FOR EACH STATEMENT EXECUTE FUNCTION spread()",
    "CREATE TABLE linked (id integer REFERENCES orders, execution_id varchar REFERENCES executions (id))",
    "ANALYZE tokens",
)


@pytest.fixture(scope="module")
def sqlite_file(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.db"
    shutil.copyfile(sqlite_template, path)
    prepare(f"sqlite:///{path}", *COMMON, *SQLITE)
    return path


@pytest.fixture(scope="module")
def postgres(postgres_uri: str, postgres_template: str) -> Iterator[str]:
    with postgres_database(postgres_uri, postgres_template) as url:
        prepare(url, *COMMON, *POSTGRESQL)
        yield url
        engine_for(url).dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def own(request: pytest.FixtureRequest) -> str:
    """An installation's database with tables, views and triggers of others beside its own."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('sqlite_file')}"
    url: str = request.getfixturevalue("postgres")
    return url


def prepare(url: str, *statements: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def read(url: str, query: str, tmp_path: Path) -> list[tuple[object, ...]]:
    access = Access(connections={"own": url}, own_tables=OWN_TABLES)
    context = StageContext("e", "p", "s", 1, {}, tmp_path / "work", access=access)
    return SqlInput(SqlConfig(connection="own", query=query)).run(context).collect().rows()


def refusal(url: str, query: str, tmp_path: Path) -> str:
    with pytest.raises(StageError) as caught:
        read(url, query, tmp_path)
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    return caught.value.message


class Output(Base):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.access = Access(output_url=url, own_tables=OWN_TABLES)

    def refusal(self, **config: object) -> str:
        with pytest.raises(StageError) as caught:
            self.run(ROWS, **config)
        assert caught.value.error_class is ErrorClass.CONFIGURATION
        return caught.value.message


@pytest.fixture
def migrated() -> bool:
    return True


def test_our_own_tables_are_all_that_a_migrated_database_has(database_url: str) -> None:
    engine = engine_for(database_url)
    assert tuple(sorted(inspect(engine).get_table_names())) == OWN_TABLES
    engine.dispose()


def test_what_stages_may_reach_names_our_own_tables_and_file(tmp_path: Path) -> None:
    sent = json.loads(json.dumps(Setup(access_of(load_settings()), "", "", "").message()))
    assert Setup.of(sent).access.own_tables == OWN_TABLES
    assert access_of(load_settings()).own_file == str(tmp_path / ".flexiroaster" / "flexiroaster.db")
    assert access_of(load_settings(database_url="sqlite:///x.db")).own_file == str(tmp_path / "x.db")
    assert access_of(load_settings(database_url="postgresql://h/x")).own_file == ""


# inputs

DIRECT = [
    *(f"SELECT 1 AS one FROM {table}" for table in OWN_TABLES),
    'SELECT count(*) AS n FROM "tokens" AS orders',
    "WITH orders AS (SELECT * FROM Tokens) SELECT 1 AS one FROM orders",
    "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM tokens WHERE digest LIKE 'a%')",
    "SELECT id FROM orders UNION ALL SELECT length(digest) FROM tokens",
    "SELECT CAST(digest AS integer) AS n FROM tokens",
    "SELECT * FROM names",
]


def test_a_query_reads_none_of_our_own_tables_directly_or_through_a_view(own: str, tmp_path: Path) -> None:
    messages = {query: refusal(own, query, tmp_path) for query in DIRECT}
    for query, message in messages.items():
        assert message.startswith("the query reads '"), query
        assert message.endswith(f": {DENIED}"), query


def test_other_tables_in_the_same_database_are_read(own: str, tmp_path: Path) -> None:
    query = "SELECT id, random() IS NOT NULL AS r FROM orders ORDER BY id"
    assert [row[0] for row in read(own, query, tmp_path)] == [1, 2]


@pytest.mark.parametrize("query", ["SELECT * FROM sqlite_stat1", "SELECT name FROM main.tokens AS t"])
def test_sqlite_shows_neither_statistics_nor_qualified_tables(sqlite_file: Path, query: str, tmp_path: Path) -> None:
    assert DENIED in refusal(f"sqlite:///{sqlite_file}", query, tmp_path)


def test_any_path_to_the_sqlite_file_is_the_same_database(sqlite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "soft.db").symlink_to(sqlite_file)
    for url in (f"sqlite:///{os.path.relpath(sqlite_file)}", "sqlite:///soft.db", "sqlite:///file:soft.db?uri=true"):
        assert DENIED in refusal(url, "SELECT * FROM tokens", tmp_path)


@pytest.mark.parametrize(
    "query",
    [
        "TABLE tokens",
        "SELECT * FROM public.tokens",
        "SELECT * FROM ONLY tokens",
        "SELECT * FROM elsewhere.orders",
        "SELECT * FROM copied",
        "SELECT * FROM child",
        "SELECT most_common_vals::text AS v FROM pg_stats WHERE tablename = 'tokens'",
        "SELECT word FROM hidden",
    ],
)
def test_postgresql_reads_none_of_our_own_tables_by_another_way(postgres: str, query: str, tmp_path: Path) -> None:
    assert DENIED in refusal(postgres, query, tmp_path)


def test_the_table_of_long_values_is_not_read(postgres: str, tmp_path: Path) -> None:
    engine = engine_for(postgres)
    with engine.begin() as connection:
        find = "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'events'::regclass"
        toast = connection.exec_driver_sql(find).scalar_one()
    assert DENIED in refusal(postgres, f"SELECT chunk_seq FROM {toast}", tmp_path)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("SELECT query_to_xml('TABLE tokens', true, true, '')::text AS x", "query_to_xml"),
        ("SELECT pg_catalog.\"table_to_xml\"('tokens', true, true, '')::text AS x", "table_to_xml"),
        ("SELECT QUERY_TO_XML/**/('TABLE tokens', true, true, '')::text::integer AS x", "query_to_xml"),
        ("SELECT database_to_xml(true, true, '')::text AS x", "database_to_xml"),
        ("SELECT * FROM ts_stat('SELECT digest::tsvector FROM tokens')", "ts_stat"),
        ("SELECT pg_read_file('postgresql.conf') AS x", "pg_read_file"),
        ("SELECT pg_terminate_backend(0) AS x", "pg_terminate_backend"),
        ("SELECT set_config('role', 'none', false) AS x", "set_config"),
        ("SELECT peek() AS x", "peek"),
        ('SELECT U&"peek"() AS x', "peek"),
        ('SELECT U&"p\\0065ek"() AS x', "something by U&"),
    ],
)
def test_a_query_beside_our_own_tables_calls_no_function_that_could_read_them(
    postgres: str, query: str, name: str, tmp_path: Path
) -> None:
    assert refusal(postgres, query, tmp_path).startswith(f"the query names {name!r}: ")


def test_only_one_statement_is_run(postgres: str, tmp_path: Path) -> None:
    for query in ("SELECT 1 AS x; SELECT 2 AS y", "DO $$ BEGIN RAISE EXCEPTION 'x'; END $$", "SHOW role"):
        with pytest.raises(StageError, match=r"cannot insert multiple commands|syntax error"):
            read(postgres, query, tmp_path)


def test_where_no_installation_is_tables_of_the_same_names_are_read(postgres_uri: str, tmp_path: Path) -> None:
    with postgres_database(postgres_uri) as url:
        some = ("CREATE TABLE tokens (id int)", "CREATE TABLE events (id int)", "INSERT INTO tokens VALUES (3)")
        prepare(url, *some, "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        assert read(url, "SELECT id, one() AS one FROM tokens", tmp_path) == [(3, 1)]
        engine_for(url).dispose()


# outputs


def test_no_output_names_one_of_our_own_tables(tmp_path: Path) -> None:
    base = Output(f"sqlite:///{tmp_path}/x.db")
    for table in (*OWN_TABLES, "Audit_Log", "TOKENS", "flexiroaster_effects", "FLEXIROASTER_undo_x"):
        expected = f"{table!r} is reserved for FlexiRoaster's own tables; choose another name"
        assert [str(p) for p in base.operator(table=table).check(("in",), base.access)] == [f"table: {expected}"]
        assert base.refusal(table=table, mode="replace") == f"config.table: {expected}"


@pytest.mark.parametrize("mode", ["append", "replace", "upsert"])
def test_no_output_writes_to_a_view_of_our_own_tables(own: str, mode: str) -> None:
    assert Output(own).refusal(table="holders", mode=mode, key=["id"]) == "'holders' is a view: outputs write to tables"


def test_no_output_writes_to_our_own_tables_through_a_trigger(own: str) -> None:
    base = Output(own)
    assert base.refusal(table="watched", track=False, execution="watched") == f"the output writes to 'tokens': {DENIED}"
    assert base.rows("SELECT * FROM watched") == []
    assert base.rows("SELECT role FROM tokens") == [("admin",)]


def test_no_output_writes_to_a_table_that_inherits_from_ours(postgres: str) -> None:
    rows = pl.DataFrame({"id": ["x"], "name": ["eve"], "role": ["admin"], "digest": ["0"]})
    rows = rows.with_columns(created_at=pl.datetime(2026, 1, 1, time_zone="UTC"))
    with pytest.raises(StageError, match=r"^the output writes to 'tokens': stages have no access"):
        Output(postgres).run(rows, table="child", track=False, execution="child")


def test_outputs_write_to_other_tables_beside_ours(own: str) -> None:
    base = Output(own)
    assert base.run(ROWS, table="fresh", execution="fresh").report == {"rows": 1, "table": "fresh"}
    assert base.rows("SELECT id FROM fresh") == [(7,)]
    assert base.undo(table="fresh", execution="fresh").startswith("deleted 1 row from 'fresh'")


def test_an_output_may_refer_to_our_own_tables(postgres: str) -> None:
    base = Output(postgres)
    base.run(pl.DataFrame({"id": [1], "execution_id": [None]}), table="linked", track=False, execution="linked")
    assert base.rows("SELECT id FROM linked") == [(1,)]


def test_a_table_named_by_default_is_none_of_ours() -> None:
    assert default_table("audit", "log", OWN_TABLES) == "output_audit_log"


# files


def test_the_sqlite_file_is_not_read_or_written_as_a_file(sqlite_file: Path) -> None:
    folder = sqlite_file.parent
    access = Access(file_roots=(str(folder),), own_file=str(sqlite_file))
    (folder / "soft.csv").symlink_to(sqlite_file)
    (folder / "hard.csv").hardlink_to(sqlite_file)
    for name in ("own.db", "own.db-wal", "soft.csv", "hard.csv"):
        with pytest.raises(StageError, match="is FlexiRoaster's own database: stages have no access to it"):
            check_file_access(str(folder / name), access)
    with pytest.raises(StageError, match=r"file 'hard\.csv' is FlexiRoaster's own database"):
        resolve(str(folder / "*.csv"), access)
    assert check_file_access(str(folder / "mine.db"), access).path == folder / "mine.db"
