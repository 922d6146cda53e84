"""The executions that a driver drives: their records, their registry, and the commit of their changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flexiroaster.engine.event_loop import Timer
from flexiroaster.engine.state_machine.execution import Execution
from flexiroaster.errors import FlexiRoasterError, LeaseLostError, StoreError
from flexiroaster.store.journal.transitions import Transition
from flexiroaster.store.journal.writer import Journal

__all__ = ["DrivenExecution", "DrivenExecutionRegistry", "Refusals", "commit", "late_timer"]

logger = logging.getLogger(__name__)

_CANNOT_WRITE = "cannot write the state of %d executions: %s"

Refusals = dict[str, FlexiRoasterError]
"""Execution id -> the error of its rejected write."""


@dataclass(slots=True, eq=False)
class DrivenExecution:
    """An execution that this process drives.

    `attempts` maps the key of each running attempt to its stage id. `timers` has each attempt's time limit under its
    key, its lateness check under `late_timer(key)`, and the time limit of the whole execution under "". `retries` maps
    a stage id to the time and timer of its next attempt, `progressed` to the time of its last progress event.
    `commands` are the ids of commands already read, `failure` is the reason why it is no longer driven.
    """

    execution: Execution
    ended: threading.Event = field(default_factory=threading.Event)
    failure: FlexiRoasterError | None = None
    attempts: dict[str, str] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    retries: dict[str, tuple[datetime, Timer]] = field(default_factory=dict)
    commands: set[int] = field(default_factory=set)
    queued: bool = False  # is in the queue for processes
    progressed: dict[str, float] = field(default_factory=dict)

    def attempt_ended(self, key: str, stage_id: str) -> None:
        """Remove an attempt and cancel its timers."""
        del self.attempts[key]
        self.cancel_timer(key)
        self.cancel_timer(late_timer(key))
        self.progressed.pop(stage_id, None)

    def cancel_timer(self, name: str) -> None:
        """Cancel the timer of this name, if there is one."""
        if (timer := self.timers.pop(name, None)) is not None:
            timer.cancel()

    def cancel_timers(self) -> None:
        """Cancel all timers."""
        for timer in (*self.timers.values(), *(timer for _, timer in self.retries.values())):
            timer.cancel()


class DrivenExecutionRegistry:
    """The executions that a process drives, by id. Thread-safe: iteration uses a copy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, DrivenExecution] = {}

    def add(self, driven: DrivenExecution) -> None:
        """Add an execution; it replaces an entry with the same id."""
        with self._lock:
            self._by_id[driven.execution.id] = driven

    def remove(self, driven: DrivenExecution) -> None:
        """Remove this entry; a newer entry with the same id stays."""
        with self._lock:
            if self._by_id.get(driven.execution.id) is driven:
                del self._by_id[driven.execution.id]

    def get(self, execution_id: str) -> DrivenExecution | None:
        """The entry with this id, or None."""
        with self._lock:
            return self._by_id.get(execution_id)

    def ids(self) -> set[str]:
        """All ids."""
        with self._lock:
            return set(self._by_id)

    def all(self) -> list[DrivenExecution]:
        """All entries, oldest first."""
        with self._lock:
            return list(self._by_id.values())


def late_timer(key: str) -> str:
    """Name of the timer that checks whether an attempt is late."""
    return f"{key} late"


def commit(journal: Callable[[], Journal], transitions: Sequence[Transition]) -> Refusals:
    """Write all transitions. Returns the error of each execution whose write was rejected, by id; abandon these.

    A defect, such as a transition that cannot be encoded, fails only its own execution.
    """
    if not transitions:
        return {}
    ids = [transition.execution_id for transition in transitions]
    try:
        landed, refused = journal().apply_each(transitions)
    except StoreError as error:  # no connection for a journal
        logger.error(_CANNOT_WRITE, len(ids), error)  # noqa: TRY400 - the message has the cause
        return dict.fromkeys(ids, error)
    _log_refused(refused)
    lost = {i: LeaseLostError(f"another driver has taken over {i}") for i in ids if i not in landed | refused}
    for refusal in lost.values():
        logger.warning("a write was rejected: %s", refusal)
    return {**refused, **lost}


def _log_refused(refused: Mapping[str, StoreError]) -> None:
    """Log one line if the database refuses or is unavailable, and each defect with its traceback."""
    causes = {i: error.__cause__ for i, error in refused.items()}
    defects = {i: e for i, e in causes.items() if isinstance(e, Exception) and not isinstance(e, StoreError)}
    for execution_id, cause in defects.items():
        logger.error("cannot write the state of execution %s", execution_id, exc_info=cause)
    others = {i: error for i, error in refused.items() if i not in defects}
    if others:
        logger.error(_CANNOT_WRITE, len(others), next(iter(others.values())))
