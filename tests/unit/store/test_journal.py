"""The journal on both databases: what lands, what does not, and that nothing is half written."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from flexiroaster.errors import StoreError
from flexiroaster.model.event import Event, EventType, Level, utc_now
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store import executions, leases
from flexiroaster.store.database import Database
from flexiroaster.store.events import events_of
from flexiroaster.store.journal.transitions import Applied, NewExecution, NewStage, StageChange, Transition
from flexiroaster.store.journal.writer import Journal
from tests.waiting import eventually


def new(execution_id: str, owner: str | None = "me") -> NewExecution:
    event = Event(execution_id, 1, EventType.EXECUTION_CREATED, "created")
    stages = (NewStage("load", "Load"), NewStage("save", "Save"))
    return NewExecution(execution_id, "p1", "Pipe", 1, {"a": [1, None]}, "test", stages, event, owner)


def started(execution_id: str, *, seq: int = 1, was: ExecutionStatus = ExecutionStatus.PENDING) -> Transition:
    now = utc_now()
    stage = StageChange("load", StageStatus.RUNNING, 1, now, None, None, {"rows": 3}, None)
    events = tuple(Event(execution_id, seq + i, EventType.STAGE_STARTED, f"event {i}", now) for i in (1, 2))
    return Transition(execution_id, 1, was, seq, ExecutionStatus.RUNNING, 0, now, None, None, events, (stage,))


def test_a_new_execution_has_its_stages_and_first_event(journal: Journal, database: Database) -> None:
    assert set(journal.apply([new("x")])) == {"x"}
    row = executions.execution(database, "x")
    assert (row.status, row.variables, row.total_stages, row.last_seq) == ("pending", {"a": [1, None]}, 2, 1)
    assert [(s.stage_id, s.name, s.status, s.position) for s in executions.stages_of(database, "x")] == [
        ("load", "Load", "pending", 0),
        ("save", "Save", "pending", 1),
    ]
    assert [(e.seq, e.type, e.message) for e in events_of(database, "x")] == [(1, "execution.created", "created")]


def test_the_same_id_is_created_once(journal: Journal, database: Database) -> None:
    assert set(journal.apply([new("x")])) == {"x"}
    assert journal.apply([new("x")]) == {}
    assert len(events_of(database, "x")) == 1


def test_a_transition_writes_state_stages_and_events(journal: Journal, database: Database) -> None:
    journal.apply([new("x")])
    change = started("x")
    assert set(journal.apply([change])) == {"x"}
    row = executions.execution(database, "x")
    assert (row.status, row.started_at, row.last_seq) == ("running", change.started_at, 3)
    stage = executions.stages_of(database, "x")[0]
    assert (stage.status, stage.attempt, stage.started_at, stage.output) == (
        "running",
        1,
        change.started_at,
        {"rows": 3},
    )
    assert [e.seq for e in events_of(database, "x")] == [1, 2, 3]
    assert [e.seq for e in events_of(database, "x", after=2)] == [3]


@pytest.mark.parametrize(
    "stale",
    [
        lambda t: replace(t, token=2),
        lambda t: replace(t, expected=ExecutionStatus.PAUSED),
        lambda t: replace(t, expected_seq=7),
        lambda t: replace(t, execution_id="nobody"),
    ],
    ids=["token", "status", "seq", "id"],
)
def test_a_stale_write_leaves_no_trace(journal: Journal, database: Database, stale) -> None:
    journal.apply([new("x")])
    assert journal.apply([stale(started("x"))]) == {}
    assert executions.execution(database, "x").status == "pending"
    assert executions.stages_of(database, "x")[0].status == "pending"
    assert len(events_of(database, "x")) == 1


def test_in_one_group_each_lands_by_itself(journal: Journal, database: Database) -> None:
    journal.apply([new("a"), new("b"), new("c")])
    landed = journal.apply([started("a"), replace(started("b"), token=9), started("c"), new("d")])
    assert set(landed) == {"a", "c", "d"}
    assert executions.execution(database, "b").status == "pending"


def test_text_that_no_database_takes_is_cleaned(journal: Journal, database: Database) -> None:
    journal.apply([new("x")])
    nasty = "nul \x00 and a lone surrogate \ud800"
    event = Event("x", 2, EventType.STAGE_LOG, nasty, level=Level.INFO, data={nasty: [nasty, float("nan"), 2**70]})
    journal.apply([replace(started("x"), events=(event,))])
    stored = events_of(database, "x", after=1)[0]
    assert stored.message == "nul \ufffd and a lone surrogate \ufffd"
    assert stored.data == {stored.message: [stored.message, None, str(2**70)]}


def test_an_unknown_state_is_refused_by_the_database(journal: Journal, database: Database) -> None:
    journal.apply([new("x")])
    wrong = replace(started("x"), status=StageStatus.SKIPPED)
    with pytest.raises(StoreError, match="ck_executions_status"):
        journal.apply([wrong])
    assert set(journal.apply([started("x")])) == {"x"}, "the journal goes on after a refused write"


def test_one_bad_change_does_not_fail_its_neighbours(journal: Journal, database: Database) -> None:
    """Writers that wait together are committed together; a refused write is then told to its own writer only."""
    count = 24
    journal.apply([new(f"x{i}") for i in range(count)])
    results: dict[int, object] = {}
    barrier = threading.Barrier(count)

    def write(i: int) -> None:
        change = started(f"x{i}")
        barrier.wait()
        try:
            results[i] = journal.apply([replace(change, status=StageStatus.SKIPPED) if i == 5 else change])
        except StoreError as error:
            results[i] = error

    threads = [threading.Thread(target=write, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(results.pop(5), StoreError)
    assert {i: set(landed) for i, landed in results.items()} == {i: {f"x{i}"} for i in range(count) if i != 5}


def test_what_waits_is_committed_together(journal: Journal) -> None:
    journal.apply([new(f"x{i}") for i in range(50)])
    before = journal.commits
    with journal._writer_lock:  # while somebody writes, everybody else gathers
        threads = [threading.Thread(target=journal.apply, args=([started(f"x{i}")],)) for i in range(50)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(journal._queue) == 50)
    for thread in threads:
        thread.join()
    assert journal.commits - before == 1


def test_two_changes_of_one_execution_keep_their_order(journal: Journal, database: Database) -> None:
    journal.apply([new("x")])
    results = []
    with journal._writer_lock:
        first = threading.Thread(target=lambda: results.append(journal.apply([started("x")])))
        first.start()
        eventually(lambda: len(journal._queue) == 1)
        second = started("x", seq=3, was=ExecutionStatus.RUNNING)
        then = threading.Thread(target=lambda: results.append(journal.apply([second])))
        then.start()
        eventually(lambda: len(journal._queue) == 2)
    first.join()
    then.join()
    assert [set(landed) for landed in results] == [{"x"}, {"x"}]
    assert executions.execution(database, "x").last_seq == 5


def test_who_does_not_land_takes_no_slot_from_the_next(journal: Journal, database: Database) -> None:
    limited = {"concurrency": 1, "queue": True}
    journal.apply([replace(new("before"), idempotency_key="k")])
    keyed = replace(new("again"), idempotency_key="k", **limited)
    landed = journal.apply([keyed, replace(new("x"), **limited), replace(new("y"), **limited)])
    assert landed == {"x": Applied(slot=1), "y": Applied(queued=True)}


def test_two_revisions_with_another_concurrency_share_the_slots(journal: Journal, database: Database) -> None:
    starts = [replace(new(i), concurrency=n, queue=True) for i, n in (("a", 1), ("b", 2), ("c", 2))]
    assert journal.apply(starts) == {"a": Applied(slot=1), "b": Applied(slot=2), "c": Applied(queued=True)}


def ending(execution_id: str, token: int, slot: int | None) -> Transition:
    change = replace(started(execution_id), token=token, status=ExecutionStatus.CANCELLED, completed_at=utc_now())
    return replace(change, release=True, freed_slot=slot, pipeline_id="p1", must_be_queued=slot is None)


def test_one_that_is_stopped_in_the_queue_is_never_promoted(journal: Journal, database: Database) -> None:
    a, b, c = (replace(new(i), concurrency=1, queue=True) for i in "abc")
    assert journal.apply([a, b]) == {"a": Applied(slot=1), "b": Applied(queued=True)}
    assert set(journal.apply([ending("b", 0, None)])) == {"b"}
    assert set(journal.apply([ending("a", 1, 1)])) == {"a"}
    assert executions.slot_holders(database, "p1") == []
    assert journal.apply([c]) == {"c": Applied(slot=1)}


def test_one_that_had_its_turn_while_it_was_stopped_keeps_no_slot(journal: Journal, database: Database) -> None:
    a, b, c = (replace(new(i), concurrency=1, queue=True) for i in "abc")
    journal.apply([a, b, c])
    assert set(journal.apply([ending("a", 1, 1)])) == {"a"}
    assert executions.slot_holders(database, "p1") == ["b"]
    assert journal.apply([ending("b", 0, None)]) == {}, "its driver does not know of its slot"
    (claimed,) = leases.claim(database, "another", limit=5, lease_seconds=15)
    assert (claimed.execution_id, claimed.lost_by) == ("b", None)
    assert set(journal.apply([ending("b", claimed.token, 1)])) == {"b"}
    assert executions.slot_holders(database, "p1") == ["c"]
