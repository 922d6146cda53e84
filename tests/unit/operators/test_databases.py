"""Engines of the databases that stages use."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, select, text
from sqlalchemy.exc import OperationalError

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.databases import READ_ONLY_OPTIONS, engine_for, normalize_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_is_served_by_psycopg_3(scheme):
    url = normalize_url(f"{scheme}://me:p%40ss@host:5433/db?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port, url.database) == ("me", "p@ss", "host", 5433, "db")
    assert url.query == {"sslmode": "require"}


def test_sqlite_urls_stay_as_they_are():
    assert normalize_url("sqlite:///a/b.db").render_as_string() == "sqlite:///a/b.db"


@pytest.mark.parametrize("url", ["swordfish", "postgresql://me@host:swordfish/db", "postgresql://u:p@h:1:swordfish"])
def test_a_malformed_url_is_refused_and_never_shown(url):
    with pytest.raises(StageError) as caught:
        engine_for(url)
    assert caught.value.error_class is ErrorClass.CONFIGURATION
    assert caught.value.message == "the connection is not a URL that SQLAlchemy can read"
    frames = traceback.TracebackException.from_exception(caught.value)
    assert "swordfish" not in "".join(line for line in frames.format() if not line.lstrip().startswith("File"))


def test_an_unknown_driver_is_a_matter_of_configuration():
    with pytest.raises(StageError, match="no database driver for 'nosuch'") as caught:
        engine_for("nosuch://host/db")
    assert caught.value.error_class is ErrorClass.CONFIGURATION


def test_the_folder_of_an_sqlite_file_has_to_exist(tmp_path):
    with pytest.raises(StageError) as caught:
        engine_for(f"sqlite:///{tmp_path}/missing/x.db")
    assert caught.value.message == f"the folder '{tmp_path}/missing' of the SQLite database does not exist"


def test_one_engine_a_url(tmp_path):
    one = engine_for(f"sqlite:///{tmp_path}/one.db")
    assert engine_for(f"sqlite:///{tmp_path}/one.db") is one
    assert engine_for(f"sqlite:///{tmp_path}/two.db") is not one


def test_two_passwords_are_two_engines():
    one = engine_for("postgresql://me:one@localhost/db")
    assert engine_for("postgresql://me:two@localhost/db") is not one
    assert engine_for("postgres://me:one@localhost/db") is one


def test_sqlite_is_set_up_to_wait_and_to_survive_a_power_cut(tmp_path):
    with engine_for(f"sqlite:///{tmp_path}/x.db").connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "busy_timeout": 30_000, "synchronous": 2, "foreign_keys": 1}


def test_a_writer_holds_the_lock_from_the_start_and_a_reader_does_not(tmp_path):
    engine = engine_for(f"sqlite:///{tmp_path}/x.db")
    other = engine.execution_options(**READ_ONLY_OPTIONS)
    with engine.begin() as writer, other.begin() as reader:
        writer.exec_driver_sql("CREATE TABLE t (a)")
        assert reader.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0
    with engine.begin(), engine.connect() as second:
        second.connection.driver_connection.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(OperationalError, match="database is locked"):
            second.begin()


def test_a_read_only_file_can_be_read(tmp_path):
    path = tmp_path / "x.db"
    with engine_for(f"sqlite:///{path}").begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    engine_for(f"sqlite:///{path}").dispose()
    url = f"sqlite:///file:{path}?mode=ro&immutable=1&uri=true"
    with engine_for(url).execution_options(**READ_ONLY_OPTIONS).begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0


@pytest.mark.parametrize("word", ["nothing", "returning", "lateral", "system_user", "plain"])
def test_every_name_is_quoted_whatever_the_database_reserves(word, database_url):
    table = Table(word, MetaData(), Column(word, Integer))
    with engine_for(database_url).begin() as connection:
        table.create(connection)
        connection.execute(table.insert().values({word: 1}))
        assert connection.execute(select(table.c[word]).where(table.c[word] == 1)).all() == [(1,)]


def test_errors_show_no_parameters_and_no_password(postgres_url):
    with engine_for(postgres_url).connect() as connection, pytest.raises(Exception, match="nowhere") as caught:
        connection.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": "swordfish"})
    assert "swordfish" not in str(caught.value)
    with pytest.raises(OperationalError) as refused:
        engine_for("postgresql://me:swordfish@127.0.0.1:1/db").connect()
    assert "swordfish" not in str(refused.value)


def test_a_forked_child_makes_connections_of_its_own(postgres_url):
    engine = engine_for(postgres_url)
    backend = text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        parents = connection.execute(backend).scalar()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:  # nothing but the database here: the other libraries' threads did not come along
        try:
            with engine_for(postgres_url).connect() as connection:
                os.write(send, str(connection.execute(backend).scalar()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(receive, 100)) != parents
    with engine.connect() as connection:
        assert connection.execute(backend).scalar() == parents
    engine.dispose()


@pytest.fixture(autouse=True)
def _closed(tmp_path: Path):
    yield
    from flexiroaster.operators.access import databases

    for engine in databases._engines.values():
        engine.dispose()
    databases._engines.clear()
