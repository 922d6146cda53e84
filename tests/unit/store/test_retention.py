"""Retention on both databases: each table has its rule, and a parent stays as long as its reruns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, func, insert, select, text, update

from flexiroaster.config import Settings, load_settings
from flexiroaster.model.event import Event, EventType, utc_now
from flexiroaster.store import retention
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.journal.transitions import NewExecution, NewStage
from flexiroaster.store.journal.writer import Journal
from flexiroaster.store.retention import BOUNDED, RULES, WITH_EXECUTION
from flexiroaster.store.tables import decision_overrides, executions, metadata
from tests.waiting import eventually

NOW = utc_now()
OLD, NEW, CUTOFF = NOW - timedelta(days=100), NOW - timedelta(days=80), NOW - timedelta(days=90)


def new(execution_id: str, parent_id: str | None = None) -> NewExecution:
    event = Event(execution_id, 1, EventType.EXECUTION_CREATED, "created", OLD)
    return NewExecution(
        execution_id, "p", "Pipe", 1, {}, "test", (NewStage("load", "Load"),), event, parent_id=parent_id
    )


def end(database: Database, *execution_ids: str) -> None:
    """They ended long ago."""
    values = {"status": "completed", "completed_at": OLD, "claimable_at": None}
    with database.write() as connection:
        connection.execute(update(executions).where(executions.c.id.in_(execution_ids)).values(values))


def pruned(database: Database) -> list[list[str]]:
    """What goes, a batch after the other."""
    found = []
    while ids := retention.expired(database, CUTOFF, 100):
        found.append(sorted(retention.delete_executions(database, ids)))
    return found


def left(database: Database, table: Table) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_every_table_has_a_rule_or_a_reason_why_it_does_not_grow() -> None:
    rules = [rule for each in RULES.values() for rule in each]
    named = [table.name for table in (executions, *WITH_EXECUTION)]
    named += [rule.table.name for rule in rules] + [
        rule.referencing.table.name for rule in rules if rule.referencing is not None
    ]
    named += BOUNDED
    assert sorted(named) == sorted(metadata.tables)
    assert set(RULES) <= set(Settings.model_fields)


# --- records ---------------------------------------------------------------------------------------------------------


def _token(name: str, at: datetime, revoked_at: datetime | None = None) -> dict[str, Any]:
    return {"id": name, "name": name, "role": "viewer", "digest": name, "created_at": at, "revoked_at": revoked_at}


def _audit(at: datetime) -> dict[str, Any]:
    return {"at": at, "viewer": "ann", "role": "admin", "action": "stop", "arguments": {}, "outcome": "ok"}


def _decision(name: str, at: datetime, execution_id: str = "gone") -> dict[str, Any]:
    said = {"action": "retry", "taken": "retry", "mode": "act", "data": {}}
    return {"id": name, "execution_id": execution_id, "seq": 1, "pipeline_id": "p", "at": at, **said}


def _override(decision_id: str) -> dict[str, Any]:
    return {"decision_id": decision_id, "action": "skip", "reason": "r", "requested_by": "ann", "at": OLD}


def _insight(cause: str, seen: datetime, resolved: datetime | None) -> dict[str, Any]:
    text_ = {"insight_type": "late", "severity": "info", "title": "t", "message": "m", "confidence": 1.0, "factors": []}
    times = {"created_at": OLD, "last_seen_at": seen, "resolved_at": resolved}
    return {"cause": cause, "occurrences": 1, **text_, **times}


def _run(execution_id: str, at: datetime) -> dict[str, Any]:
    times = {"started_at": at, "finished_at": at}
    return {"execution_id": execution_id, "pipeline_id": "p", "status": "completed", "imported": False, **times}


def _model(at: datetime, *, promoted: bool) -> dict[str, Any]:
    said = {"version": "1", "rung": "local", "reason": "r", "examples": 1, "seed": 0, "data_hash": "h", "model": {}}
    return {"created_at": at, "promoted": promoted, **said}


def _revision(pipeline_id: str, revision: int, at: datetime) -> dict[str, Any]:
    return {"pipeline_id": pipeline_id, "revision": revision, "definition": {"number": revision}, "created_at": at}


def _pipeline(pipeline_id: str, revision: int, deleted_at: datetime | None = None) -> dict[str, Any]:
    text_ = {"name": pipeline_id, "description": "", "version": "1", "is_active": True, "stage_count": 1}
    return {"id": pipeline_id, "revision": revision, "created_at": OLD, "deleted_at": deleted_at, **text_}


STAY, GO = True, False

RECORDS: dict[str, list[tuple[dict[str, Any], bool]]] = {
    "audit_log": [(_audit(OLD), GO), (_audit(NEW), STAY)],
    "tokens": [
        (_token("revoked long ago", OLD, OLD), GO),
        (_token("expired long ago", OLD) | {"expires_at": OLD}, GO),
        (_token("revoked lately", OLD, NEW), STAY),
        (_token("in force", OLD), STAY),
        (_token("the newest of all", NEW, OLD), STAY),
    ],
    "decisions": [
        (_decision("of one that was pruned", OLD), GO),
        (_decision("newer", NEW), STAY),
        (_decision("of one that is there", OLD, "kept"), STAY),
    ],
    "insights": [
        (_insight("resolved long ago", OLD, OLD), GO),
        (_insight("never seen again", OLD, None), GO),
        (_insight("resolved lately", OLD, NEW), STAY),
        (_insight("open", NEW, None), STAY),
    ],
    "run_history": [(_run("gone", OLD), GO), (_run("gone", NEW), STAY), (_run("kept", OLD), STAY)],
    "risk_models": [
        (_model(OLD, promoted=True), GO),
        (_model(OLD, promoted=True), STAY),
        *[(_model(OLD, promoted=False), GO)] * 2,
        *[(_model(OLD, promoted=False), STAY)] * retention.NEWEST_MODELS,
    ],
    "pipeline_revisions": [
        (_revision("p", 1, OLD), STAY),  # the execution has it
        (_revision("p", 2, OLD), GO),
        (_revision("p", 3, OLD), STAY),  # replaced lately
        (_revision("p", 4, NEW), STAY),
        (_revision("deleted", 1, OLD), GO),
        (_revision("unchanged", 1, OLD), STAY),
    ],
}
"""By table with a rule: rows, and whether each stays."""


def _fill(connection: Connection) -> None:
    places = [("p", 4, None), ("deleted", 1, OLD), ("unchanged", 1, None)]
    connection.execute(insert(metadata.tables["pipelines"]), [_pipeline(*each) for each in places])
    for name, rows in RECORDS.items():
        for row, _ in rows:
            connection.execute(insert(metadata.tables[name]).values(row))
    for decision in ("of one that was pruned", "newer"):
        connection.execute(insert(decision_overrides).values(_override(decision)))


def test_what_is_expired_goes_and_what_is_needed_stays(journal: Journal, database: Database) -> None:
    journal.apply([new("kept")])
    with database.write() as connection:
        _fill(connection)
    for rule in (rule for rules in RULES.values() for rule in rules):
        expected = [row for row, stays in RECORDS[rule.table.name] if stays]
        before = left(database, rule.table)
        deleted = [retention.delete_expired(database, rule, CUTOFF, 1) for _ in range(before - len(expected) + 1)]
        assert deleted == [1] * (before - len(expected)) + [0], (rule.table.name, "a batch is as large as it says")
        with database.read() as connection:
            found = [dict(row._mapping) for row in connection.execute(select(rule.table))]
        for row in expected:
            assert any(row.items() <= each.items() for each in found), (rule.table.name, row)
    assert left(database, decision_overrides) == 1


# --- reruns ----------------------------------------------------------------------------------------------------------


def test_a_parent_stays_as_long_as_a_rerun_of_it(journal: Journal, database: Database) -> None:
    journal.apply([new("first"), new("other")])
    journal.apply([new("second", "first")])
    journal.apply([new("third", "second")])
    end(database, "first", "second", "other")
    assert pruned(database) == [["other"]]
    assert retention.delete_executions(database, ["first", "second"]) == [], (
        "not even where it looked free a moment ago"
    )
    end(database, "third")
    assert pruned(database) == [["third"], ["second"], ["first"]]


def test_a_rerun_of_what_was_pruned_meanwhile_is_not_created(journal: Journal, database: Database) -> None:
    journal.apply([new("first")])
    end(database, "first")
    retention.delete_executions(database, ["first"])
    late = replace(new("second", "first"), concurrency=1, queue=True)
    beside = replace(new("beside"), concurrency=1, queue=True)
    landed = journal.apply([late, beside])
    assert set(landed) == {"beside"}
    assert not landed["beside"].queued, "it took no slot either"


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    opened = open_database(load_settings(database_url=postgres_url))
    yield opened
    opened.close()


def _waits_for_a_lock(database: Database) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with database.read() as connection:
        return connection.execute(text(waiting)).first() is not None


def test_a_prune_that_waits_for_a_rerun_sees_it(postgres: Database) -> None:
    """On SQLite they come one after the other."""
    journal = Journal(postgres)
    journal.apply([new("first"), new("second")])
    end(postgres, "first")
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(retention.delete_executions(postgres, ["first"])))
    with postgres.write() as connection:  # what the journal does, seen from between its statements
        parent = select(executions.c.id).where(executions.c.id == "first")
        connection.execute(parent.with_for_update(read=True, key_share=True))
        thread.start()
        eventually(lambda: _waits_for_a_lock(postgres))
        connection.execute(update(executions).where(executions.c.id == "second").values(parent_id="first"))
    thread.join(60)
    assert found == [[]]
    journal.close()


def test_a_rerun_that_waits_for_a_prune_is_not_created(postgres: Database) -> None:
    journal = Journal(postgres)
    journal.apply([new("first")])
    landed: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: landed.append(journal.apply([new("second", "first")])))
    with postgres.write() as connection:
        connection.execute(select(executions.c.id).where(executions.c.id == "first").with_for_update())
        thread.start()
        eventually(lambda: _waits_for_a_lock(postgres))
        connection.execute(delete(executions).where(executions.c.id == "first"))
    thread.join(60)
    assert landed == [{}]
    journal.close()
