"""Progress view of a run on stderr: a live table on a terminal, otherwise lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import typer

from flexiroaster.cli.text import console, duration, moment, one_line, rows, styled, table
from flexiroaster.model.event import Event, EventType, Level, utc_now
from flexiroaster.model.execution import StageStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flexiroaster.model.pipeline import Pipeline

__all__ = ["Board", "View", "shown"]

_STATUS_AFTER = {
    EventType.STAGE_STARTED: StageStatus.RUNNING,
    EventType.STAGE_COMPLETED: StageStatus.COMPLETED,
    EventType.STAGE_RETRYING: StageStatus.WAITING,
    EventType.STAGE_FAILED: StageStatus.FAILED,
    EventType.STAGE_SKIPPED: StageStatus.SKIPPED,
    EventType.STAGE_CANCELLED: StageStatus.CANCELLED,
    EventType.STAGE_INTERRUPTED: StageStatus.PENDING,
    EventType.STAGE_UNDONE: StageStatus.ROLLED_BACK,
}

_TABLE_TELLS = frozenset({EventType.STAGE_STARTED, EventType.STAGE_COMPLETED, EventType.STAGE_PROGRESS})
_SERIOUS = frozenset({Level.WARNING, Level.ERROR, Level.CRITICAL})


class View(Protocol):
    """A view of a run."""

    def show(self, events: Sequence[Event]) -> None:
        """Show new events."""

    def note(self, message: str) -> None:
        """Show a message that is not an event."""


@contextmanager
def shown(pipeline: Pipeline, *, quiet: bool, silent: bool = False) -> Iterator[View]:
    """Open the view that suits stderr; `quiet` disables it unless stderr is a terminal, `silent` always disables it."""
    if silent:
        yield _Silence()
    elif sys.stderr.isatty():
        with _live(pipeline) as view:
            yield view
    else:
        yield _Silence() if quiet else _Lines()


@dataclass(slots=True)
class _Row:
    status: StageStatus = StageStatus.PENDING
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    rows: int | None = None
    note: str = ""

    def seconds(self, now: datetime) -> float | None:
        """Return the duration of the attempt until its end or until `now`, in seconds."""
        return None if self.started_at is None else ((self.ended_at or now) - self.started_at).total_seconds()


class Board:
    """The state of every stage according to the events so far, rendered as a table."""

    def __init__(self, stage_ids: Sequence[str]) -> None:
        self.stages = {stage_id: _Row() for stage_id in stage_ids}

    def take(self, event: Event) -> None:
        """Apply one event to the state."""
        row = self.stages.get(event.stage_id or "")
        if row is None:
            return
        if event.type is EventType.STAGE_PROGRESS:
            row.note = one_line(event.message)
        elif event.type in _STATUS_AFTER:
            self._move(row, _STATUS_AFTER[event.type], event)

    def __rich__(self) -> RenderableType:
        now = utc_now()
        shown = table("stage", "status", "attempt", "duration", "rows", "", right=("attempt", "duration", "rows"))
        for stage_id, row in self.stages.items():
            count = "-" if row.rows is None else f"{row.rows:,}"
            took = duration(row.seconds(now))
            shown.add_row(stage_id, styled(row.status), str(row.attempt or "-"), took, count, row.note)
        return shown

    def _move(self, row: _Row, status: StageStatus, event: Event) -> None:
        row.status, row.note = status, ""
        row.attempt = event.attempt or row.attempt
        if status is StageStatus.RUNNING:
            row.started_at, row.ended_at = event.at, None
        else:
            row.ended_at = row.ended_at or event.at
        if status is StageStatus.COMPLETED:
            row.rows = rows(event.data)


@contextmanager
def _live(pipeline: Pipeline) -> Iterator[View]:
    """Show a live table with warnings and errors above it; the table disappears at the end."""
    from rich.live import Live

    board = Board(pipeline.order())
    with Live(console=console(stderr=True), get_renderable=lambda: board, refresh_per_second=8, transient=True) as live:
        yield _Table(board, live.console.print)


class _Table:
    def __init__(self, board: Board, write: Printer) -> None:
        self._board = board
        self._write = write

    def show(self, events: Sequence[Event]) -> None:
        for event in events:
            self._board.take(event)
            if event.level in _SERIOUS and event.type not in _TABLE_TELLS:
                self._write(_line(event))

    def note(self, message: str) -> None:
        self._write(message)


class Printer(Protocol):
    """A function that prints a line above the table."""

    def __call__(self, text: str, /) -> None:
        """Print the text."""


class _Lines:
    """A view with one line for each event."""

    def show(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.level is not Level.DEBUG:
                typer.echo(_line(event), err=True)

    def note(self, message: str) -> None:
        typer.echo(message, err=True)


class _Silence:
    def show(self, events: Sequence[Event]) -> None:
        """Ignore the call."""

    def note(self, message: str) -> None:
        """Ignore the call."""


def _line(event: Event) -> str:
    """Format an event as `12:00:01  WARNING  load: message`; messages of the engine already name the stage."""
    stage = f"{event.stage_id}: " if event.type is EventType.STAGE_LOG else ""
    return f"{moment(event.at)[11:]}  {event.level.upper():8} {stage}{one_line(event.message)}"
