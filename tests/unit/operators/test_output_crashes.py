"""Processes that die, or freeze, while they write to a database: one effect remains, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import polars as pl
import pytest

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.outputs.database import destination
from tests.unit.operators.output_attempts import Base, child_code, run_and_die

DATA = pl.DataFrame({"id": range(1, 31), "name": [f"new {i}" for i in range(30)]})
FORMER = [(1, "old"), (99, "old")]
MODES = ["append", "replace", "upsert"]

BEFORE_COMMIT = """
from sqlalchemy.engine.default import DefaultDialect
commits = iter(range(100))
real = DefaultDialect.do_commit
def do_commit(self, connection):
    if next(commits) == 1:  # the first created the effects table
        die()
    real(self, connection)
DefaultDialect.do_commit = do_commit
"""
AFTER_COMMIT = """
from sqlalchemy.engine.default import DefaultDialect
commits = iter(range(100))
real = DefaultDialect.do_commit
def do_commit(self, connection):
    real(self, connection)
    if next(commits) == 1:  # the first created the effects table
        die()
DefaultDialect.do_commit = do_commit
"""
AMID_THE_ROWS = """
from flexiroaster.operators.outputs.database import tables
real = tables.batches
def batches(table, size):
    for number, batch in enumerate(real(table, 10)):
        if number == 2:
            die()
        yield batch
tables.batches = batches
"""
FREEZE_BEFORE_COMMIT = BEFORE_COMMIT.replace(
    "die()", 'print("frozen", flush=True) or os.kill(os.getpid(), signal.SIGSTOP)'
)
FREEZE_BEFORE_TRANSACTION = """
from flexiroaster.operators.outputs.database.ledger import Ledger
real = Ledger.ensure
def ensure(self, engine):
    real(self, engine)
    print("frozen", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
Ledger.ensure = ensure
"""


@pytest.fixture
def base(database_url):
    made = Base(database_url)
    made.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)", "INSERT INTO t VALUES (1, 'old'), (99, 'old')")
    yield made
    made.engine.dispose()


def config_of(mode: str) -> dict[str, object]:
    return {"destination": "database", "table": "t", "mode": mode, "key": ["id"]}


def data_for(mode: str) -> pl.DataFrame:
    return DATA.filter(pl.col("id") > 1) if mode == "append" else DATA


def rows_after(mode: str) -> list[tuple[int, str]]:
    rows = data_for(mode).rows()
    return {"append": [FORMER[0], *rows, FORMER[1]], "upsert": [*rows, FORMER[1]], "replace": rows}[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", [AMID_THE_ROWS, BEFORE_COMMIT], ids=["amid the rows", "before the commit"])
def test_a_death_before_the_commit_leaves_nothing_and_the_next_attempt_does_it(base, mode, moment):
    assert run_and_die(moment, config_of(mode), {"output_url": base.url}, data_for(mode))
    assert base.rows() == FORMER
    assert base.rows("SELECT * FROM flexiroaster_effects") == []
    assert base.run(data_for(mode), mode=mode, key=["id"]).report["rows"] == data_for(mode).height
    assert base.rows() == rows_after(mode)
    base.undo()
    assert base.rows() == FORMER


@pytest.mark.parametrize("mode", MODES)
def test_a_death_after_the_commit_leaves_the_effect_and_the_next_attempt_finds_it(base, mode):
    assert run_and_die(AFTER_COMMIT, config_of(mode), {"output_url": base.url}, data_for(mode))
    assert base.rows() == rows_after(mode)
    stored = base.effect()
    base.execute("UPDATE t SET name = 'touched' WHERE id = 30")
    assert base.run(data_for(mode), mode=mode, key=["id"]).effect == stored
    assert base.rows("SELECT name FROM t WHERE id = 30") == [("touched",)]
    base.undo()
    assert base.rows() == FORMER


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", [BEFORE_COMMIT, AFTER_COMMIT], ids=["before the commit", "after the commit"])
def test_an_undo_that_dies_is_done_once(base, mode, moment):
    base.run(data_for(mode), mode=mode, key=["id"])
    assert run_and_die(moment, config_of(mode), {"output_url": base.url}, DATA, action="undo")
    died_before = moment is BEFORE_COMMIT
    assert base.rows() == (rows_after(mode) if died_before else FORMER)
    assert base.undo().startswith("was already undone") is not died_before
    assert base.rows() == FORMER


@pytest.fixture
def freeze(base):
    """Start an attempt that freezes itself; gives the process, which does not outlive the test."""
    children = []

    def start(sabotage: str, mode: str) -> subprocess.Popen[str]:
        code = child_code(sabotage, config_of(mode), {"output_url": base.url}, data_for(mode))
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "frozen\n"
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_frozen_before_its_commit_is_waited_for_and_its_effect_is_the_one(base, mode, monkeypatch, freeze):
    child = freeze(FREEZE_BEFORE_COMMIT, mode)
    _wait_briefly(base, monkeypatch)
    with pytest.raises(StageError) as caught:
        base.run(data_for(mode), mode=mode, key=["id"])
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert caught.value.message == (
        "another transaction, perhaps an earlier attempt that still runs, has locked what this stage writes to"
    )
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=120) == ("", "")
    assert base.run(data_for(mode), mode=mode, key=["id"]).effect == base.effect()
    assert base.rows() == rows_after(mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_frozen_before_its_transaction_comes_too_late_after_the_next_one(base, mode, freeze):
    child = freeze(FREEZE_BEFORE_TRANSACTION, mode)
    base.run(data_for(mode), mode=mode, key=["id"])
    base.execute("UPDATE t SET name = 'touched'")
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=120) == ("", "")
    assert base.rows() == [(number, "touched") for number, _ in rows_after(mode)]


def test_an_attempt_frozen_before_its_transaction_is_kept_out_after_the_undo(base, freeze):
    child = freeze(FREEZE_BEFORE_TRANSACTION, "upsert")
    assert base.undo() == "nothing was written to table 't'"
    child.send_signal(signal.SIGCONT)
    _, stderr = child.communicate(timeout=120)
    assert "the effect of this stage was undone at" in stderr
    assert base.rows() == FORMER


def _wait_briefly(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "_LOCK_TIMEOUT", "100ms")
    if not base.is_postgres:
        with base.engine.connect() as connection:  # the one pooled connection
            connection.connection.driver_connection.execute("PRAGMA busy_timeout = 100")
