"""Whatever a writer of the journal dies of, the others go on, and each hears of its own change."""

from __future__ import annotations

import itertools
import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from flexiroaster.config import load_settings
from flexiroaster.errors import StoreError
from flexiroaster.model import failpoints
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store import executions
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.events import events_of
from flexiroaster.store.journal import postgres, sqlite
from flexiroaster.store.journal.transitions import Applied, NewDecision, NewExecution, Transition
from flexiroaster.store.journal.writer import Journal
from tests.proxy import free_port
from tests.unit.store.test_journal import new, started
from tests.unit.store.writers import Writer, gather
from tests.waiting import eventually


def too_deep(change: Transition) -> Transition:
    value: object = 1
    for _ in range(300):
        value = [value]
    return replace(change, stages=(replace(change.stages[0], output={"deep": value}),))


def too_large(change: Transition) -> Transition:
    return replace(change, stages=(replace(change.stages[0], attempt=2**70),))


def interrupt_once(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The writer that comes to this fault point first is interrupted there, as by Ctrl-C."""
    turns = itertools.count()

    def point(name: str) -> None:
        if name == where and next(turns) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "point", point)


@contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Ctrl-C reaches the main thread, which is the test's, once the condition holds; it is raised here, once.

    A signal just before a thread waits for a lock is seen only when the thread has it, so it is sent until it is seen.
    """
    seen = threading.Event()

    def see(*_: object) -> None:
        if not seen.is_set():
            seen.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        eventually(condition)
        while not seen.wait(1):  # psycopg looks for signals ten times a second, and begins anew with each
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, see)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        seen.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def attempts_of(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many changes there are in each attempt of a journal's backend, as they come."""
    sizes: list[int] = []
    apply = journal._backend.apply

    def counting(new: Sequence[NewExecution], moved: Sequence[Transition], doubtful: set[str]) -> dict[str, Applied]:
        sizes.append(len(new) + len(moved))
        return apply(new, moved, doubtful)

    monkeypatch.setattr(journal._backend, "apply", counting)
    return sizes


@pytest.mark.parametrize("spoil", [too_deep, too_large])
def test_a_change_that_cannot_be_encoded_fails_alone(
    journal: Journal, spoil: Callable[[Transition], Transition]
) -> None:
    ids = [f"x{i}" for i in range(5)]
    journal.apply([new(i) for i in ids])
    writers = gather(journal, [spoil(started(i)) if i == "x2" else started(i) for i in ids])
    outcomes = {i: writer.outcome() for i, writer in zip(ids, writers, strict=True)}
    assert isinstance(outcomes.pop("x2"), StoreError)
    assert outcomes == {i: {i: Applied()} for i in ids if i != "x2"}
    assert journal.apply([started("x2")]) == {"x2": Applied()}, "the journal goes on"


def test_one_bad_change_of_a_call_fails_alone(journal: Journal) -> None:
    ids = [f"x{i}" for i in range(5)]
    journal.apply([new(i) for i in ids])
    landed, refused = journal.apply_each(
        [too_deep(started(i)) if i == "x2" else replace(started(i), token=9 * (i == "x3") or 1) for i in ids]
    )
    assert landed == {i: Applied() for i in ("x0", "x1", "x4")}
    assert set(refused) == {"x2"}
    assert isinstance(refused["x2"], StoreError)


def test_a_bad_change_of_several_statements_is_refused_at_once(journal: Journal) -> None:
    journal.apply([new("x")])
    wrong = replace(started("x"), status=StageStatus.SKIPPED, release=True)
    with pytest.raises(StoreError, match="ck_executions_status"):
        journal.apply([wrong])


@pytest.mark.parametrize("where", ["journal.before_commit", "journal.after_commit"])
def test_ctrl_c_is_raised_in_the_writer_and_the_others_are_written(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    ids = [f"x{i}" for i in range(5)]
    journal.apply([new(i) for i in ids])
    interrupt_once(monkeypatch, where)
    writers = gather(journal, [started(i) for i in ids] + [new("y")])
    outcomes = {i: writer.outcome() for i, writer in zip([*ids, "y"], writers, strict=True)}
    (interrupted,) = [i for i, outcome in outcomes.items() if isinstance(outcome, KeyboardInterrupt)]
    assert outcomes == {i: {i: Applied()} for i in outcomes if i != interrupted} | {interrupted: outcomes[interrupted]}
    assert journal._queue == []
    assert all(executions.execution(database, i).last_seq == 3 for i in ids if i != interrupted)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_interrupted_writer_gives_the_write_lock_back(
    journal: Journal, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    journal.apply([new("x"), new("y")])
    with monkeypatch.context() as patched:
        patched.setattr(sqlite.rows, "event_rows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.apply([started("x")])
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=0)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    assert journal.apply([started("y")]) == {"y": Applied()}


def test_ctrl_c_while_a_statement_waits_leaves_the_journal_usable(postgres_url: str) -> None:
    database = open_database(load_settings(database_url=postgres_url))
    journal = Journal(database)
    journal.apply([new("x"), new("y"), new("z")])
    with psycopg.connect(postgres_url) as blocker, psycopg.connect(postgres_url, autocommit=True) as watch:
        blocker.execute("SELECT FROM executions WHERE id = 'x' FOR UPDATE")
        others: list[Writer] = []

        def both_wait() -> bool:
            waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            if not watch.execute(waiting).fetchall():
                return False
            others[:] = others or [Writer(journal, [started("y")])]
            return len(journal._queue) == 2

        with interrupted_when(both_wait):
            journal.apply([started("x")])
        assert others[0].outcome() == {"y": Applied()}
        blocker.rollback()
    assert executions.execution(database, "x").last_seq == 1, "its statement was ended"
    assert journal.apply([started("x")]) == {"x": Applied()}
    journal.close()
    database.close()


def test_ctrl_c_while_it_waits_withdraws_a_change(journal: Journal, database: Database) -> None:
    journal.apply([new("x"), new("y")])
    with journal._writer_lock, interrupted_when(lambda: len(journal._queue) == 1):
        journal.apply([started("x")])
    assert journal.apply([started("y")]) == {"y": Applied()}
    assert executions.execution(database, "x").last_seq == 1


def test_an_interrupted_writer_withdraws_its_change_before_the_next_one_can_write(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.apply([new("x")])
    lock, left = journal._writer_lock, []

    class Watched:
        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            left.append(list(journal._queue))
            lock.release()

    monkeypatch.setattr(journal, "_writer_lock", Watched())
    interrupt_once(monkeypatch, "journal.before_commit")
    with pytest.raises(KeyboardInterrupt):
        journal.apply([started("x")])
    assert left == [[]], "the next writer finds nothing of it"


def test_writers_that_are_interrupted_at_random_lose_and_repeat_nothing(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads, each with its own execution: only a change whose own call was interrupted is in doubt."""
    chance = random.Random(7)
    wrong: list[str] = []
    apply = journal._backend.apply

    def interrupted(new: Sequence[NewExecution], moved: Sequence[Transition], doubtful: set[str]) -> dict[str, Applied]:
        before, after = (moved and chance.random() < 0.1 for _ in range(2))
        if before:
            raise KeyboardInterrupt
        landed = apply(new, moved, doubtful)
        if after:
            raise KeyboardInterrupt
        return landed

    def write(execution_id: str) -> None:
        for _ in range(20):
            row = executions.execution(database, execution_id)
            try:
                landed = journal.apply([started(execution_id, seq=row.last_seq, was=ExecutionStatus(row.status))])
            except KeyboardInterrupt:
                continue
            if set(landed) != {execution_id}:
                wrong.append(f"{execution_id} after {row.last_seq}")

    ids = [f"x{i}" for i in range(8)]
    journal.apply([new(i) for i in ids])
    monkeypatch.setattr(journal._backend, "apply", interrupted)
    threads = [threading.Thread(target=write, args=(i,), daemon=True) for i in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    for i in ids:
        last = executions.execution(database, i).last_seq
        assert [event.seq for event in events_of(database, i)] == list(range(1, last + 1))


def test_what_is_applied_twice_lands_once(journal: Journal, database: Database) -> None:
    """The transaction of a lost connection may be committed after the look whether it was: then both are applied."""
    first, second = (replace(new(i), concurrency=1, queue=True) for i in ("x", "y"))
    third = replace(new("z"), concurrency=1, queue=True)
    journal.apply([first])
    journal.apply([second])
    journal.apply([third])
    change = started("x")
    decision = NewDecision(2, change.events[0].at, "load", 1, None, "continue", "continue", "act", {})
    ended = replace(change, release=True, freed_slot=1, pipeline_id="p1", decisions=(decision,))
    assert journal._backend.apply([], [ended]) == {"x": Applied()}
    assert journal._backend.apply([], [ended]) == {}
    assert journal._backend.apply([first], [ended], {"x"}) == {"x": Applied()}
    assert executions.slot_holders(database, "p1") == ["y"]


def test_an_outage_is_waited_for_once_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "RECONNECT_SECONDS", 0.05)
    database = open_database(load_settings(database_url=f"postgresql://x@127.0.0.1:{free_port()}/x"))
    journal = Journal(database)
    attempts = attempts_of(journal, monkeypatch)
    outcomes = [writer.outcome() for writer in gather(journal, [new("a"), new("b"), started("a"), new("c")])]
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 4
    assert attempts == [2], "what came up to the second change of one execution"
    assert len({id(outcome) for outcome in outcomes}) == 4, "each raises its own"
    database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_lock_that_is_held_too_long_is_waited_for_once_by_all(
    journal: Journal, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    attempts = attempts_of(journal, monkeypatch)
    journal._backend._connection.execute("PRAGMA busy_timeout = 50")
    other.execute("BEGIN IMMEDIATE")
    outcomes = [writer.outcome() for writer in gather(journal, [new("a"), new("b"), new("c")])]
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
    assert attempts == [3]
    other.close()
    assert journal.apply([new("a")]) == {"a": Applied()}
