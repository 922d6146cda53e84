"""What belongs to many at once: one statement however many they are, and each gets its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert

from flexiroaster.config import Settings
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.paging import Page, Window
from flexiroaster.service import pipelines
from flexiroaster.service.executions import events, executions
from flexiroaster.service.executions.events import AttemptOutcome, EventFilter
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store import tables
from tests.history import BEGINNING, add_executions
from tests.integration.test_pages import walked
from tests.statements import statements


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


@pytest.fixture
def rows(installation: Installation) -> list[dict[str, Any]]:
    """60 executions of the stored pipelines p0 to p3 and of p4, which is not there."""
    for i in range(4):
        pipelines.create(installation, definition(f"p{i}"))
    return add_executions(installation, 60)


def definition(pipeline_id: str, **fields: Any) -> dict[str, Any]:
    stage = {"id": "a", "type": "input", "config": {"source": "api"}}
    return {"id": pipeline_id, "name": f"Pipeline {pipeline_id}", "stages": [stage], **fields}


def add_events(installation: Installation, execution_id: str, count: int) -> list[dict[str, Any]]:
    levels = list(Level)
    made = [
        {
            "execution_id": execution_id,
            "seq": seq,
            "at": BEGINNING,
            "type": EventType.STAGE_LOG if seq % 3 else EventType.STAGE_PROGRESS,
            "level": levels[seq % len(levels)],
            "stage_id": "ab"[seq % 2],
            "message": f"line {seq}",
            "data": {"seq": seq},
        }
        for seq in range(1, count + 1)
    ]
    with installation.database.write() as connection:
        connection.execute(insert(tables.events), made)
    return made


def test_executions_by_id(installation: Installation, rows: list[dict[str, Any]]) -> None:
    ids = [row["id"] for row in rows[:30]]
    with statements(installation) as sent:
        found = executions.by_ids(installation, [*ids, "nobody"])
    assert len(sent) == 1
    assert set(found) == set(ids)
    assert all(found[row["id"]].variables == row["variables"] for row in rows[:30])
    assert {row.error for row in executions.by_ids(installation, ids, {"error"}).values()} == {None}
    assert executions.by_ids(installation, []) == {}


def test_stages_of_many(installation: Installation, rows: list[dict[str, Any]]) -> None:
    stages = [
        {"execution_id": row["id"], "stage_id": f"s{9 - i}", "position": i, "name": "S", "status": "pending",
         "attempt": 0, "is_anomaly": False}
        for row in rows[:20] for i in range(3)
    ]  # fmt: skip
    with installation.database.write() as connection:
        connection.execute(insert(tables.stage_runs), stages)
    ids = [row["id"] for row in rows[:21]]
    with statements(installation) as sent:
        found = executions.stages_by_execution(installation, ids)
    assert len(sent) == 1
    assert {i: [s.stage_id for s in found[i]] for i in found} == {i: ["s9", "s8", "s7"] for i in ids[:20]}
    assert found[ids[0]] == executions.stages(installation, ids[0])


@pytest.mark.parametrize("limit", [1, 3])
def test_the_latest_of_each_pipeline(installation: Installation, rows: list[dict[str, Any]], limit: int) -> None:
    with statements(installation) as sent:
        found = executions.latest(installation, ["p0", "p1", "p2", "nobody"], limit)
    assert len(sent) == 1
    newest = sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)
    expected = {p: [row["id"] for row in newest if row["pipeline_id"] == p][:limit] for p in ("p0", "p1", "p2")}
    assert {p: [row.id for row in of] for p, of in found.items()} == expected


def test_pages_of_events(installation: Installation) -> None:
    made = add_events(installation, "x", 40)
    add_events(installation, "y", 3)
    wanted = EventFilter(
        after=3, before=30, levels=(Level.INFO, Level.ERROR), types=(EventType.STAGE_LOG,), stage_id="a"
    )
    expected = [
        e["seq"] for e in made
        if 3 < e["seq"] < 30 and e["level"] in {"info", "error"} and e["type"] == "stage.log" and e["stage_id"] == "a"
    ]  # fmt: skip
    assert expected
    for backward in (False, True):

        def read(window: Window, wanted: EventFilter = wanted) -> Page[Event]:
            with statements(installation) as sent:
                page = events.page(installation, "x", wanted, window)
            assert len(sent) == 1
            return page

        assert [event.seq for event in walked(read, 2, backward=backward)] == expected
        everything = walked(lambda window: read(window, EventFilter()), 7, backward=backward)
        assert [event.seq for event in everything] == list(range(1, 41))
    assert events.count(installation, "x", wanted) == len(expected)


def test_the_cursor_of_an_event_is_its_number(installation: Installation) -> None:
    add_events(installation, "x", 5)
    page = events.page(installation, "x")
    assert [events.number(cursor) for cursor in page.cursors] == [1, 2, 3, 4, 5]
    assert events.cursor(3) == page.cursors[2]


def test_definitions_of_many(installation: Installation) -> None:
    for i in range(20):
        pipelines.create(installation, definition(f"q{i}"))
    pipelines.replace(installation, "q1", definition("q1", description="changed"))
    pipelines.delete(installation, "q2")
    with statements(installation) as sent:
        rows = pipelines.by_ids(installation, [f"q{i}" for i in range(25)])
    assert len(sent) == 1
    assert set(rows) == {f"q{i}" for i in range(20)} - {"q2"}
    assert (rows["q1"].revision, rows["q1"].description, rows["q1"].stage_count) == (2, "changed", 1)
    keys = [("q1", 1), ("q1", 2), ("q2", 1), ("q3", 7), *((f"q{i}", 1) for i in range(4, 20))]
    with statements(installation) as sent:
        found = pipelines.by_keys(installation, keys)
    assert len(sent) == 1
    assert set(found) == set(keys) - {("q3", 7)}
    assert [found["q1", n].pipeline.description for n in (1, 2)] == ["", "changed"]


def event(seq: int, kind: EventType, stage_id: str = "a", attempt: int | None = 1, **data: Any) -> Event:
    return Event("x", seq, kind, "told", replace_second(seq), Level.INFO, stage_id, attempt, data or None)


def replace_second(seq: int) -> Any:
    return BEGINNING.replace(second=seq)


def test_attempts_are_folded_from_the_log() -> None:
    error = {"message": "no", "class": "transient"}
    found = events.fold(
        [
            event(1, EventType.STAGE_STARTED),
            event(2, EventType.STAGE_STARTED, "b"),
            event(3, EventType.STAGE_RETRYING, error=error, delay=1.5),
            event(4, EventType.STAGE_STARTED, attempt=2),
            event(5, EventType.STAGE_INTERRUPTED),
            event(6, EventType.STAGE_STARTED, attempt=2),
            event(7, EventType.STAGE_FAILED, attempt=2, error=error),
            event(8, EventType.STAGE_CANCELLED, "c", None),
            event(9, EventType.STAGE_STARTED),
            event(10, EventType.STAGE_COMPLETED, rows=3),
        ]
    )
    o = AttemptOutcome
    assert [(a.number, a.attempt, a.outcome, a.error, a.retry_delay, a.duration) for a in found["a"]] == [
        (1, 1, o.FAILED, error, 1.5, 2.0),
        (2, 2, o.INTERRUPTED, None, None, 1.0),
        (3, 2, o.FAILED, error, None, 1.0),
        (4, 1, o.COMPLETED, None, None, 1.0),
    ]
    assert [(a.outcome, a.ended_at, a.duration) for a in found["b"]] == [(o.RUNNING, None, None)]
    assert "c" not in found


def test_attempts_of_many(installation: Installation) -> None:
    with installation.database.write() as connection:
        for i in range(10):
            for made in (event(1, EventType.STAGE_STARTED), event(2, EventType.STAGE_LOG)):
                made = replace(made, execution_id=f"x{i}")
                values = {name: getattr(made, name) for name in Event.__slots__}
                connection.execute(insert(tables.events).values(values))
    with statements(installation) as sent:
        found = events.by_execution(installation, [f"x{i}" for i in range(10)])
    assert len(sent) == 1
    assert [len(found[f"x{i}"]["a"]) for i in range(10)] == [1] * 10
