"""An execution with what its driver keeps beside its state."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flexiroaster.engine.executor import Execution
from flexiroaster.engine.timers import Timer
from flexiroaster.errors import FlexiRoasterError

__all__ = ["Driven"]


@dataclass(slots=True, eq=False)
class Driven:
    """`attempts` maps the key of each running attempt to its stage; `timers` are by that key, "" is the whole
    execution's. `commands` are those that were looked at, `failure` is why it is not driven any more.
    """

    execution: Execution
    ended: threading.Event = field(default_factory=threading.Event)
    failure: FlexiRoasterError | None = None
    attempts: dict[str, str] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    commands: set[int] = field(default_factory=set)
    queued: bool = False  # stands in the line for processes
    progressed: dict[str, float] = field(default_factory=dict)

    def attempt_ended(self, key: str, stage_id: str) -> None:
        """Forget an attempt and its timer."""
        del self.attempts[key]
        timer = self.timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self.progressed.pop(stage_id, None)
