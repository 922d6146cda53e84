"""Named points at which a test can kill, freeze or fail this process.

`point("journal.after_commit")` does nothing unless the environment arms it:

    FLEXIROASTER_FAULTS="journal.after_commit=kill@3 leases.before_renew=freeze"

`kill` is SIGKILL, `freeze` is SIGSTOP, `raise` raises `InjectedFault`; `@3` means the third time the point is reached,
the first if it is not said. Each fires once a process. Every place where a crash would matter has its point in
`POINTS`.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

__all__ = ["POINTS", "VARIABLE", "InjectedFault", "point"]

VARIABLE = "FLEXIROASTER_FAULTS"

POINTS = (
    "executions.after_create",  # written and claimed, not yet driven
    "journal.before_commit",  # a change of state is in the transaction
    "journal.after_commit",  # it is durable, nobody knows
    "driver.before_start",  # a stage has started according to the database, its process does not know
    "driver.after_end",  # a stage has ended, the database does not know
    "scheduler.after_claim",  # claimed, not yet read back
    "scheduler.after_restore",  # read back, not yet driven
    "leases.before_renew",
    "leases.after_release",  # handed over
    "attempt.before_run",  # in the stage's process
    "attempt.after_run",  # the work is done, its effects too; the driver does not know
    "attempt.after_undo",  # an effect is undone, the driver does not know
    "artifacts.before_rename",  # a table is written under its temporary name
)


class InjectedFault(Exception):  # noqa: N818 - a fault, not an error of ours: nothing may catch it by name
    """What a point armed with `raise` raises."""


@dataclass(slots=True)
class _Armed:
    action: str
    countdown: int


def _armed(text: str) -> dict[str, _Armed]:
    armed = {}
    for item in text.split():
        name, _, action = item.partition("=")
        action, _, count = action.partition("@")
        if name not in POINTS or action not in {"kill", "freeze", "raise"}:
            raise ValueError(f"{VARIABLE}: {item!r} names no point or no action")
        armed[name] = _Armed(action, int(count or 1))
    return armed


_ARMED = _armed(os.environ.get(VARIABLE, ""))


def point(name: str) -> None:
    """A place where a crash would matter; does nothing unless it is armed."""
    if _ARMED:
        _fire(name)


def _fire(name: str) -> None:
    armed = _ARMED.get(name)
    if armed is None:
        return
    armed.countdown -= 1
    if armed.countdown > 0:
        return
    del _ARMED[name]
    if armed.action == "raise":
        raise InjectedFault(name)
    # to this thread, which then stops here: one sent to the process may be taken by another thread a little later
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
