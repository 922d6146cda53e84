"""The live table: what the events so far make of each stage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from flexiroaster.cli.progress import Board
from flexiroaster.model.event import Event, EventType, Level

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def event(kind: EventType, stage: str | None, second: float, **fields: Any) -> Event:
    return Event(
        "exec-1", 1, kind, fields.pop("message", "text"), START + timedelta(seconds=second), stage_id=stage, **fields
    )


def drawn(board: Board) -> list[list[str]]:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(board)
    return [line.split() for line in capture.get().splitlines()[1:]]


def test_a_stage_that_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexiroaster.cli.progress.utc_now", lambda: START + timedelta(seconds=60))
    board = Board(["a", "b"])
    steps = [
        (event(EventType.EXECUTION_STARTED, None, 0), ["a", "pending", "-", "-", "-"]),
        (event(EventType.STAGE_STARTED, "a", 1, attempt=1), ["a", "running", "1", "59.0", "s", "-"]),
        (event(EventType.STAGE_PROGRESS, "a", 2, attempt=1, message="ha\x1blf"),
         ["a", "running", "1", "59.0", "s", "-", "ha\\x1blf"]),
        (event(EventType.STAGE_RETRYING, "a", 3, attempt=1), ["a", "waiting", "1", "2.00", "s", "-"]),
        (event(EventType.STAGE_STARTED, "a", 10, attempt=2), ["a", "running", "2", "50.0", "s", "-"]),
        (event(EventType.STAGE_INTERRUPTED, "a", 11, attempt=2), ["a", "pending", "2", "1.00", "s", "-"]),
        (event(EventType.STAGE_STARTED, "a", 20, attempt=3), ["a", "running", "3", "40.0", "s", "-"]),
        (event(EventType.STAGE_LOG, "a", 21, attempt=3, level=Level.ERROR), ["a", "running", "3", "40.0", "s", "-"]),
        (event(EventType.STAGE_COMPLETED, "a", 24.5, attempt=3, data={"rows": 1234}),
         ["a", "completed", "3", "4.50", "s", "1,234"]),
        (event(EventType.STAGE_UNDONE, "a", 50), ["a", "rolled_back", "3", "4.50", "s", "1,234"]),
    ]  # fmt: skip
    for happened, expected in steps:
        board.apply(happened)
        assert drawn(board) == [expected, ["b", "pending", "-", "-", "-"]], happened.type


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (EventType.STAGE_FAILED, "failed"),
        (EventType.STAGE_SKIPPED, "skipped"),
        (EventType.STAGE_CANCELLED, "cancelled"),
    ],
)
def test_how_a_stage_may_end(kind: EventType, status: str) -> None:
    board = Board(["a"])
    board.apply(event(kind, "a", 1))
    board.apply(event(kind, "unknown", 1))
    assert drawn(board) == [["a", status, "-", "-", "-"]]
