"""Which executions are in another state than before, as the database has it and as the bus tells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from flexiroaster.config import Settings
from flexiroaster.errors import InputError, NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import LIVE, ExecutionStatus
from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import tables
from tests.history import BEGINNING, add_executions, made_up
from tests.integration.program import DAILY
from tests.statements import database_work
from tests.waiting import eventually


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def test_what_lives_and_what_has_ended_since(installation: Installation) -> None:
    """Against the same question asked of all rows; more than a page of each."""
    add_executions(installation, 5000)
    rows = executions.offset_page(installation, limit=10_000)[0]
    at = sorted(row.completed_at for row in rows if row.completed_at)[2000]
    filters = (
        ExecutionFilter(),
        ExecutionFilter(pipeline_ids=("p1",)),
        ExecutionFilter(statuses=(ExecutionStatus.FAILED, ExecutionStatus.RUNNING)),
        ExecutionFilter(statuses=()),
    )
    for wanted in filters:
        matching = {
            row.id: row
            for row in rows
            if (wanted.pipeline_ids is None or row.pipeline_id in wanted.pipeline_ids)
            and (wanted.statuses is None or row.status in wanted.statuses)
        }
        live = {id_ for id_, row in matching.items() if row.status in LIVE}
        ended = {id_ for id_, row in matching.items() if row.completed_at and row.completed_at >= at - events.MARGIN}
        assert {row.id for row in events.changes_since(installation, wanted)} == live
        found = events.changes_since(installation, wanted, at)
        assert {row.id for row in found} == live | ended
        assert len(found) == len(live | ended)
        some = [row.id for row in rows[::2]]
        assert {row.id for row in events.changes_among(installation, wanted, some)} == set(some) & set(matching)


PAST = 5000


def add_past(installation: Installation, count: int, seed: int = 2) -> None:
    """Executions that ended long before all others."""
    ended = [row for row in made_up(count, seed=seed) if row["completed_at"]]
    for row in ended:
        row.update({name: row[name] - timedelta(days=30) for name in ("created_at", "started_at", "completed_at")})
    with installation.database.write() as connection:
        connection.execute(insert(tables.executions), ended)
    if not installation.database.is_sqlite:  # where autovacuum does that by itself
        with installation.database.engine.connect() as connection:
            connection.execute(text("ANALYZE"))
            connection.commit()


@pytest.mark.parametrize(
    "wanted",
    [
        ExecutionFilter(),
        ExecutionFilter(pipeline_ids=("p1",)),
        ExecutionFilter(pipeline_ids=("p1", "p2"), text="row_1"),
        ExecutionFilter(statuses=(ExecutionStatus.FAILED,), minimal_risk=0.3),
        ExecutionFilter(statuses=(ExecutionStatus.COMPLETED, ExecutionStatus.PAUSED), created_after=BEGINNING),
    ],
    ids=["all", "a pipeline", "pipelines", "a status", "statuses"],
)
def test_a_look_costs_what_has_changed_however_much_ended_before(
    installation: Installation, wanted: ExecutionFilter
) -> None:
    add_past(installation, 500)
    rows = add_executions(installation, 100)
    at = sorted(row["completed_at"] for row in rows if row["completed_at"])[-5] + events.MARGIN
    some = [row["id"] for row in rows[:3]]

    def look() -> None:
        events.changes_since(installation, wanted, at)
        events.changes_among(installation, wanted, some)

    before = database_work(installation, look)
    add_past(installation, PAST, seed=3)
    assert database_work(installation, look) - before < PAST / 10  # none on SQLite; PostgreSQL may choose another plan


def test_the_bus_tells_of_an_execution_that_nobody_drives(installation: Installation) -> None:
    heard: set[str | None] = set()
    end = events.listen_to_changes(installation, heard.add)
    try:
        revision = pipelines.save(installation, {"id": "daily", **DAILY})
        execution_id = executions.start(installation, revision, drive=False)
        eventually(lambda: execution_id in heard)
    finally:
        end()


def test_the_bus_tells_of_each_execution(installation: Installation) -> None:
    heard: set[str | None] = set()
    end = events.listen_to_changes(installation, heard.add)
    try:
        execution_id = executions.start(installation, pipelines.save(installation, {"id": "daily", **DAILY}))
        eventually(lambda: execution_id in heard)
        executions.wait(installation, execution_id, timeout=120)
    finally:
        end()
    heard.clear()
    again = executions.start(installation, "daily")
    executions.wait(installation, again, timeout=120)
    assert not heard


def test_cursors_are_times() -> None:
    for at in (utc_now(), datetime(2026, 3, 1, tzinfo=UTC)):
        assert events.change_position(events.change_cursor(at)) == at
    for garbage in ("", "x", "é", "AAAA", events.change_cursor(utc_now() - timedelta(days=20_000)), "MjAyNi0wMS0wMQ"):
        with pytest.raises(InputError):
            events.change_position(garbage)


def test_a_batch_is_no_newer_than_its_execution(installation: Installation) -> None:
    execution_id = executions.start(installation, pipelines.save(installation, {"id": "daily", **DAILY}))
    executions.wait(installation, execution_id, timeout=120)
    everything = executions.events(installation, execution_id)
    after, found = 0, []
    while True:
        batch = events.since(installation, execution_id, after, limit=3)
        assert batch.last <= batch.execution.last_seq == len(everything)
        found += batch.events
        after = batch.last
        if batch.ended:
            break
    assert found == everything
    assert events.since(installation, execution_id, after).ended
    for number in (-1, len(everything) + 1, 2**62):
        with pytest.raises(InputError):
            events.since(installation, execution_id, number)
    with pytest.raises(NotFoundError):
        events.since(installation, "absent")
