"""An execution with what its driver keeps beside its state."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

from flexiroaster.engine.executor import Execution
from flexiroaster.engine.timers import Timer
from flexiroaster.errors import FlexiRoasterError

__all__ = ["Driven", "DrivenExecutions", "late_timer"]


@dataclass(slots=True, eq=False)
class Driven:
    """`attempts` maps the key of each running attempt to its stage; `timers` are by that key (its limit) and by
    `late_timer` of it, "" is the whole execution's. `retries` has when which stage is tried again, with the timer.
    `commands` are those that were looked at, `failure` is why it is not driven any more.
    """

    execution: Execution
    ended: threading.Event = field(default_factory=threading.Event)
    failure: FlexiRoasterError | None = None
    attempts: dict[str, str] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    retries: dict[str, tuple[datetime, Timer]] = field(default_factory=dict)
    commands: set[int] = field(default_factory=set)
    queued: bool = False  # stands in the line for processes
    progressed: dict[str, float] = field(default_factory=dict)

    def attempt_ended(self, key: str, stage_id: str) -> None:
        """Forget an attempt and its timer."""
        del self.attempts[key]
        for name in (key, late_timer(key)):
            if (timer := self.timers.pop(name, None)) is not None:
                timer.cancel()
        self.progressed.pop(stage_id, None)

    def cancel_timers(self) -> None:
        """Nothing more happens to it because of the time."""
        for timer in (*self.timers.values(), *(timer for _, timer in self.retries.values())):
            timer.cancel()


class DrivenExecutions:
    """What a process drives, by execution id. Thread-safe: what is iterated over is a copy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, Driven] = {}

    def add(self, driven: Driven) -> None:
        """It is driven from now on, in place of what was driven under its id."""
        with self._lock:
            self._by_id[driven.execution.id] = driven

    def remove(self, driven: Driven) -> None:
        """It is not driven any more; another one under its id still is."""
        with self._lock:
            if self._by_id.get(driven.execution.id) is driven:
                del self._by_id[driven.execution.id]

    def get(self, execution_id: str) -> Driven | None:
        """The one of that id, if it is driven."""
        with self._lock:
            return self._by_id.get(execution_id)

    def ids(self) -> set[str]:
        """The ids of all."""
        with self._lock:
            return set(self._by_id)

    def all(self) -> list[Driven]:
        """All, those first that have been driven longest."""
        with self._lock:
            return list(self._by_id.values())


def late_timer(key: str) -> str:
    """The name of the timer by which an attempt is looked at when it would be late."""
    return f"{key} late"
