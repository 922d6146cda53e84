"""From events to spans: what the events do not say outright."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from flexiroaster.model.event import ENDS, Event, EventType, utc_now
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service.tracing import TRACED_EVENTS, ExecutionTrace, Spans, nanoseconds
from flexiroaster.store.executions import ExecutionRow
from tests.collector import Collector, collecting

BEGAN = utc_now()
T = EventType
STAGE = {"id": "s", "type": "output", "config": {"destination": "nowhere"}}


def at(seq: int) -> datetime:
    return BEGAN + timedelta(seconds=seq)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was traced is there once it is closed, however busy the machine is."""
    monkeypatch.setattr("flexiroaster.service.tracing.CLOSE_SECONDS", 120.0)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def spans_of(
    collector: Collector, *told: tuple[EventType, str | None], past: int = 0
) -> list[tuple[str, Any, int, int]]:
    """The spans of these events after the creation: name, outcome or status, and the numbers of their first and last
    event; the first `past` are somebody else's.
    """
    created = Event("x", 1, T.EXECUTION_CREATED, "", at(1))
    pipeline = Pipeline.model_validate({"name": "P", "stages": [STAGE]})
    row = ExecutionRow("x", "p", "P", 1, ExecutionStatus.RUNNING, {}, "me", 1, 0, None, BEGAN, None, None, None, 9)
    spans = Spans(collector.url, "worker")
    trace = ExecutionTrace(spans, row, pipeline, created)
    for seq, (kind, stage_id) in enumerate(told, 2):
        trace.add_event(Event("x", seq, kind, "", at(seq), stage_id=stage_id), past=seq - 2 < past)
    spans.close()
    numbers = {nanoseconds(at(seq)): seq for seq in range(1, len(told) + 2)}
    return [
        (
            span.name,
            span.attributes.get("flexiroaster.stage.outcome", span.attributes.get("flexiroaster.execution.status")),
            numbers[span.start],
            numbers[span.end],
        )
        for span in collector.spans
    ]


def test_one_that_ends_before_it_was_started_is_as_long_as_it_waited(collector: Collector) -> None:
    found = spans_of(collector, (T.EXECUTION_PAUSED, None), (T.STAGE_CANCELLED, "s"), (T.EXECUTION_CANCELLED, None))
    assert found == [("execution P", "cancelled", 1, 4)]


def test_one_that_began_paused_starts_with_its_resume(collector: Collector) -> None:
    found = spans_of(collector, (T.EXECUTION_PAUSED, None), (T.EXECUTION_RESUMED, None), (T.EXECUTION_COMPLETED, None))
    assert found == [("execution P", "completed", 3, 4)]


def test_an_undo_whose_process_went_away_is_interrupted_when_it_begins_anew(collector: Collector) -> None:
    found = spans_of(
        collector,
        (T.EXECUTION_STARTED, None),
        (T.EXECUTION_COMPLETED, None),
        (T.ROLLBACK_STARTED, None),
        (T.STAGE_UNDOING, "s"),
        (T.STAGE_UNDOING, "s"),
        (T.STAGE_UNDONE, "s"),
        (T.ROLLBACK_COMPLETED, None),
        past=4,
    )
    assert found == [
        ("undo s", "interrupted", 5, 6),
        ("undo s", "undone", 6, 7),
        ("rollback P", "rolled_back", 4, 8),
    ]
    attempts = [span.attributes.get("flexiroaster.stage.attempt") for span in collector.spans[:2]]
    assert attempts == [1, 1], "one that was interrupted does not count"
    assert "flexiroaster.stage.operator" not in collector.spans[0].attributes, "that operator does not exist"


def test_a_rollback_of_one_that_is_paused_ends_its_run(collector: Collector) -> None:
    found = spans_of(
        collector,
        (T.EXECUTION_STARTED, None),
        (T.EXECUTION_PAUSED, None),
        (T.ROLLBACK_STARTED, None),
        (T.ROLLBACK_FAILED, None),
    )
    assert found == [("execution P", "failed", 2, 5)]
    assert [name for name, _ in collector.spans[0].events] == ["execution.paused", "rollback.started"]


def test_every_end_is_told() -> None:
    assert set(TRACED_EVENTS) >= ENDS
