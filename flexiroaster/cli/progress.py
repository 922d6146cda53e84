"""Start an execution, show its progress on stderr and handle Ctrl-C: a live table on a terminal, otherwise lines."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import typer

from flexiroaster.cli.executions import enable_execution_log
from flexiroaster.cli.text import FAILED, INTERRUPTED, console, duration, moment, one_line, rows, styled, table
from flexiroaster.errors import NotAllowedError
from flexiroaster.model.event import Event, EventType, Level, utc_now
from flexiroaster.model.execution import TERMINAL, ExecutionStatus, StageStatus
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service import pipelines
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionRow, StageRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.safety import decisions

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Board", "Outcome", "run_with_progress"]


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

SIGNALS = (signal.SIGINT, signal.SIGTERM)

PAUSED_SECONDS = 0.5
"""The interval (s) between checks of a paused execution."""

_SHOWN_IN_TABLE = frozenset({EventType.STAGE_STARTED, EventType.STAGE_COMPLETED, EventType.STAGE_PROGRESS})
_SERIOUS = frozenset({Level.WARNING, Level.ERROR, Level.CRITICAL})


class View(Protocol):
    """A view of a run."""

    def show(self, events: Sequence[Event]) -> None:
        """Show new events."""

    def note(self, message: str) -> None:
        """Show a message that is not an event."""


@contextmanager
def _open_view(pipeline: Pipeline, *, quiet: bool, silent: bool) -> Iterator[View]:
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

    def apply(self, event: Event) -> None:
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
    def __init__(self, board: Board, write: Callable[[str], None]) -> None:
        self._board = board
        self._write = write

    def show(self, events: Sequence[Event]) -> None:
        for event in events:
            self._board.apply(event)
            if event.level in _SERIOUS and event.type not in _SHOWN_IN_TABLE:
                self._write(_line(event))

    def note(self, message: str) -> None:
        self._write(message)


class _Lines:
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


# --- run an execution to its end -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """An execution that has ended, with its stages, and whether a signal stopped it."""

    execution: ExecutionRow
    stages: list[StageRow]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.execution.status is ExecutionStatus.COMPLETED:
            return 0
        return INTERRUPTED if self.interrupted else FAILED


@dataclass(frozen=True, slots=True)
class _Signal:
    number: int


@dataclass(frozen=True, slots=True)
class _End:
    failure: Exception | None


_Inbox = SimpleQueue[Sequence[Event] | _Signal | _End]


def run_with_progress(
    installation: Installation,
    definition: object,
    variables: Mapping[str, Any],
    *,
    quiet: bool,
    timeout: float | None = None,
    traceparent: str | None = None,
) -> Outcome:
    """Save a definition and run it to its end as part of the trace `traceparent`; `quiet` shows less progress.

    The first signal stops the execution, and so does `timeout` (s). Raises the errors of `pipelines.save` and
    `executions.start`, StoreError if the database is unreachable, and KeyboardInterrupt at the second signal; the
    caller then closes the installation, which kills all running stages.
    """
    installation.warm_up()
    silent = enable_execution_log(installation)
    revision = pipelines.save(installation, definition)
    inbox: _Inbox = SimpleQueue()
    with _open_view(revision.pipeline, quiet=quiet, silent=silent) as view:
        unlisten = installation.driver.listen(inbox.put)
        try:
            with _signals_to(inbox):
                execution_id = executions.start(
                    installation, revision, variables, triggered_by="cli", traceparent=traceparent
                )
                watch = partial(_watch_for_end, installation, execution_id, inbox)
                threading.Thread(target=watch, name="flexiroaster-wait", daemon=True).start()
                interrupted = _process_inbox(installation, execution_id, inbox, view, timeout)
        finally:
            unlisten()
    execution = executions.get(installation, execution_id)
    return Outcome(execution, executions.stages(installation, execution_id), interrupted)


def _process_inbox(
    installation: Installation, execution_id: str, inbox: _Inbox, view: View, timeout: float | None
) -> bool:
    """Process the inbox until the execution has ended; return whether a signal arrived."""
    deadline = None if timeout is None else monotonic() + timeout
    interrupted = False
    while True:
        try:
            item = inbox.get(timeout=None if deadline is None else max(0.0, deadline - monotonic()))
        except Empty:
            deadline = None
            _stop(installation, execution_id, f"the time limit of {timeout:g} s has passed")
            continue
        match item:
            case _Signal(number):
                interrupted = True
                view.note("Stopping; interrupt again to kill running stages.")
                _stop(installation, execution_id, f"interrupted by {signal.Signals(number).name}")
            case _End(failure):
                if failure is not None:
                    raise failure
                return interrupted
            case events:
                view.show(events)


def _stop(installation: Installation, execution_id: str, reason: str) -> None:
    with suppress(NotAllowedError):  # the execution has just ended
        commands.stop(installation, execution_id, reason)


def _watch_for_end(installation: Installation, execution_id: str, inbox: _Inbox) -> None:
    try:
        while executions.wait(installation, execution_id).status not in TERMINAL:
            if decisions.awaits_a_person(installation, execution_id):
                break
            sleep(PAUSED_SECONDS)  # the execution is paused: a user may resume it
    except Exception as error:  # noqa: BLE001 - raised again in `_process_inbox`
        inbox.put(_End(error))
    else:
        inbox.put(_End(None))


@contextmanager
def _signals_to(inbox: _Inbox) -> Iterator[None]:
    """Put the first signal into the inbox; raise KeyboardInterrupt on the second."""
    received = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True
        inbox.put(_Signal(number))  # SimpleQueue.put() is reentrant, so a handler can call it during get()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
