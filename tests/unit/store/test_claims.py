"""Claims on both databases: whose lease has run out is told, and nobody else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import update

from flexiroaster.model.command import CommandKind
from flexiroaster.model.event import Event, EventType, utc_now
from flexiroaster.store import commands, leases
from flexiroaster.store.database import Database
from flexiroaster.store.journal.transitions import NewExecution, NewStage
from flexiroaster.store.journal.writer import Journal
from flexiroaster.store.tables import executions


def new(execution_id: str, owner: str | None = None, *, paused: bool = False) -> NewExecution:
    event = Event(execution_id, 1, EventType.EXECUTION_CREATED, "created")
    stages = (NewStage("load", "Load"),)
    return NewExecution(execution_id, "p1", "Pipe", 1, {}, "test", stages, event, owner, paused=paused)


def taken(database: Database, owner: str, execution_id: str) -> leases.Claim | None:
    """Claimed either way; both tell the same."""
    one, many = f"{execution_id}-one", f"{execution_id}-many"
    first = leases.claim_one(database, owner, one, lease_seconds=60)
    found = [c for c in leases.claim(database, owner, limit=9, lease_seconds=60) if c.execution_id == many]
    assert (first is None) is (found == [])
    if first is None:
        return None
    assert replace(found[0], execution_id=one) == first
    return first


def run_out(database: Database, *execution_ids: str) -> None:
    past = utc_now() - timedelta(seconds=1)
    with database.write() as connection:
        connection.execute(update(executions).where(executions.c.id.in_(execution_ids)).values(claimable_at=past))


def both(execution_id: str) -> tuple[str, str]:
    return f"{execution_id}-one", f"{execution_id}-many"


def test_whose_lease_ran_out_is_told(journal: Journal, database: Database) -> None:
    journal.apply([new(each, "me") for each in both("x")])
    assert taken(database, "you", "x") is None
    run_out(database, *both("x"))
    assert taken(database, "you", "x") == leases.Claim("x-one", 2, 2, "me")
    run_out(database, *both("x"))
    second = leases.claim_one(database, "she", "x-one", lease_seconds=60)
    assert second == leases.Claim("x-one", 3, 3, "you")
    (suspect,) = leases.claim(database, "she", limit=9, lease_seconds=60, suspects=True)
    assert suspect.lost_by == "you"


def test_what_nobody_drove_was_lost_by_nobody(journal: Journal, database: Database) -> None:
    journal.apply([new(each) for each in both("x")])
    assert taken(database, "you", "x") == leases.Claim("x-one", 1, 1, None)


def test_who_gives_up_has_lost_nothing(journal: Journal, database: Database) -> None:
    journal.apply([new(each, "me") for each in both("x")])
    leases.release(database, "me", both("x"))
    assert taken(database, "you", "x") == leases.Claim("x-one", 2, 1, None)


def test_an_execution_that_begins_paused_has_no_owner_to_lose_it(journal: Journal, database: Database) -> None:
    journal.apply([new(each, "me", paused=True) for each in both("x")])
    for each in both("x"):
        commands.request(database, each, CommandKind.RESUME, {}, requested_by="ann")
    assert taken(database, "you", "x") == leases.Claim("x-one", 1, 1, None)


def test_a_claim_that_is_given_back_does_not_count(journal: Journal, database: Database) -> None:
    journal.apply([new("lost", "she"), new("fresh"), new("failed"), new("stolen")])
    run_out(database, "lost")
    given = leases.claim(database, "me", limit=9, lease_seconds=60)
    run_out(database, "stolen")
    stolen = leases.claim_one(database, "you", "stolen", lease_seconds=60)
    leases.undo_claims(database, "me", given, "failed")
    again = leases.claim(database, "you", limit=9, lease_seconds=60)
    assert sorted(again, key=lambda claim: claim.execution_id) == [
        leases.Claim("fresh", 2, 1, None),
        leases.Claim("lost", 3, 2, "she"),
    ], "and whose lease had run out is not forgotten"
    run_out(database, "failed")
    assert leases.claim_one(database, "you", "failed", lease_seconds=60) == leases.Claim("failed", 2, 1, None)
    assert stolen == leases.Claim("stolen", 2, 2, "me")
    assert leases.renew(database, "you", ["stolen"], lease_seconds=60) == {"stolen"}, "it is another's by now"
