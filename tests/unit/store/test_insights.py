"""Insights on both databases: one open row for each cause, however many note it at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from flexiroaster.config import Settings, load_settings
from flexiroaster.errors import ConflictError
from flexiroaster.model.event import utc_now
from flexiroaster.store.database import Database, open_database
from flexiroaster.store.journal.transitions import Finding
from flexiroaster.store.journal.writer import Journal
from flexiroaster.store.safety import insights
from flexiroaster.store.safety.insights import InsightFilter, InsightRow
from flexiroaster.store.tables import pipeline_revisions
from tests.unit.store.test_journal import new
from tests.waiting import blocked, eventually

FINDING = Finding("high_risk:p", "high_risk", "high", "p is likely to fail", "It fails.", 0.9, pipeline_id="p")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = open_database(settings)
    yield opened
    opened.close()


def record(database: Database, **changes: Any) -> None:
    with database.write() as connection:
        insights.record(connection, replace(FINDING, **changes), utc_now())


def stored(database: Database) -> list[InsightRow]:
    return insights.offset_page(database, InsightFilter(), 0, 100)[0]


def test_findings_of_one_cause_are_one_insight_until_it_is_resolved(database: Database) -> None:
    record(database, execution_id="x", factors=[{"name": "streak", "value": 1.0}])
    record(database, execution_id="x", message="again, at its end")
    record(database, execution_id="y", message="NUL \0", action_taken="blocked")
    record(database)
    [insight] = stored(database)
    assert (insight.occurrences, insight.execution_id, insight.action_taken) == (3, None, None)
    assert insight.last_seen_at > insight.created_at
    with database.write() as connection:
        insights.resolve(connection, [FINDING.cause], utc_now())
    record(database, factors=[{"name": "streak", "value": 1.0}])
    newest, former = stored(database)
    assert (newest.occurrences, newest.is_resolved, former.is_resolved) == (1, False, True)
    assert newest.factors == [{"name": "streak", "value": 1.0}]


def test_two_processes_note_the_same_cause_at_the_same_moment(postgres_url: str) -> None:
    database = open_database(load_settings(database_url=postgres_url))
    failures: list[Exception] = []

    def second() -> None:
        try:
            record(database, execution_id="y")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
            failures.append(error)

    thread = threading.Thread(target=second)
    with database.write() as connection:
        insights.record(connection, replace(FINDING, execution_id="x"), utc_now())
        thread.start()
        eventually(lambda: blocked(postgres_url) == 1)
    thread.join()
    assert failures == []
    assert [(insight.execution_id, insight.occurrences) for insight in stored(database)] == [("y", 2)]
    database.close()


def test_the_journal_notes_what_was_found_about_the_executions_that_land(database: Database) -> None:
    journal = Journal(database)

    def found(execution_id: str, **changes: Any) -> Any:
        finding = replace(FINDING, execution_id=execution_id, message=f"of {execution_id}", factors=[{"name": "f"}])
        return replace(new(execution_id), findings=(finding,), **changes)

    assert set(journal.apply([found("a"), found("b"), found("c", idempotency_key="k")])) == {"a", "b", "c"}
    assert journal.apply([found("d", idempotency_key="k")]) == {}
    [insight] = stored(database)
    assert (insight.execution_id, insight.message, insight.occurrences) == ("c", "of c", 3)
    assert insight.factors == [{"name": "f"}]
    assert timedelta(0) < utc_now() - insight.created_at < timedelta(hours=1)
    late = replace(FINDING, cause="late:p", insight_type="late", execution_id="e")
    assert set(journal.apply([replace(found("e"), findings=(late, replace(late, cause=FINDING.cause)))])) == {"e"}
    assert [insight.occurrences for insight in stored(database)] == [1, 4]
    journal.close()


def test_a_row_that_another_process_wrote_first_is_a_conflict(database: Database) -> None:
    row = {"pipeline_id": "p", "revision": 1, "definition": {}, "created_at": utc_now()}
    for expected in (nullcontext(), pytest.raises(ConflictError, match="conflicts with stored data")):
        with expected, database.write() as connection:
            connection.execute(insert(pipeline_revisions).values(row))
