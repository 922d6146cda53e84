"""Start an execution and follow it until it ends: shows events, enforces a time limit, handles Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from types import FrameType
from typing import Any

from flexiroaster.cli.progress import View
from flexiroaster.errors import NotAllowedError
from flexiroaster.model.event import Event
from flexiroaster.model.execution import TERMINAL
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.executions.executions import ExecutionRow
from flexiroaster.service.installation import Installation
from flexiroaster.service.pipelines import Revision
from flexiroaster.service.safety import decisions

__all__ = ["Followed", "follow"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

PAUSED_SECONDS = 0.5
"""The interval (s) between checks of a paused execution."""


@dataclass(frozen=True, slots=True)
class Followed:
    """An execution that has ended, and whether a signal stopped it."""

    execution: ExecutionRow
    interrupted: bool


@dataclass(frozen=True, slots=True)
class _Signal:
    number: int


@dataclass(frozen=True, slots=True)
class _End:
    failure: Exception | None


_Inbox = SimpleQueue[Sequence[Event] | _Signal | _End]


def follow(
    installation: Installation,
    revision: Revision,
    variables: Mapping[str, Any],
    view: View,
    timeout: float | None = None,
    traceparent: str | None = None,
) -> Followed:
    """Run a pipeline to its end as part of the trace `traceparent`.

    The first signal stops the execution, and so does `timeout` (s). Raises the errors of `executions.start`, StoreError
    if the database is unreachable, and KeyboardInterrupt at the second signal; the caller then closes the installation,
    which kills all running stages.
    """
    inbox: _Inbox = SimpleQueue()
    unlisten = installation.driver.listen(inbox.put)
    try:
        with _signals_to(inbox):
            execution_id = executions.start(
                installation, revision, variables, triggered_by="cli", traceparent=traceparent
            )
            arguments = (installation, execution_id, inbox)
            threading.Thread(target=_tell_the_end, args=arguments, name="flexiroaster-wait", daemon=True).start()
            interrupted = _attend(installation, execution_id, inbox, view, timeout)
    finally:
        unlisten()
    return Followed(executions.get(installation, execution_id), interrupted)


def _attend(installation: Installation, execution_id: str, inbox: _Inbox, view: View, timeout: float | None) -> bool:
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


def _tell_the_end(installation: Installation, execution_id: str, inbox: _Inbox) -> None:
    try:
        while executions.wait(installation, execution_id).status not in TERMINAL:
            if decisions.awaits_a_person(installation, execution_id):
                break
            sleep(PAUSED_SECONDS)  # the execution is paused: a user may resume it
    except Exception as error:  # noqa: BLE001 - raised again in `_attend`
        inbox.put(_End(error))
    else:
        inbox.put(_End(None))


@contextmanager
def _signals_to(inbox: _Inbox) -> Iterator[None]:
    """Put the first signal into the inbox; raise KeyboardInterrupt on the second."""
    came = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        inbox.put(_Signal(number))  # SimpleQueue.put() is reentrant, so a handler can call it during get()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
