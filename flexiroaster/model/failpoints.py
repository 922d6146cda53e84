"""Failpoints: named places where a test can kill, freeze or fail this process.

`point("journal.after_commit")` does nothing unless the environment arms it:

    FLEXIROASTER_FAULTS="journal.after_commit=kill@3 leases.before_renew=freeze"

`kill` is SIGKILL, `freeze` is SIGSTOP, `raise` raises `InjectedFault`. `@3` fires the third time the point is reached;
the default is the first time. Each failpoint fires once per process. Every place where a crash would matter has a
failpoint in `POINTS`.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

__all__ = ["POINTS", "VARIABLE", "InjectedFault", "point"]

VARIABLE = "FLEXIROASTER_FAULTS"

POINTS = (
    "executions.after_create",  # stored and claimed, not yet driven
    "journal.before_commit",  # the transition is written, the transaction is still open
    "journal.after_commit",  # the transition is durable, no reader knows it yet
    "driver.before_start",  # the database says a stage has started, its process does not know it yet
    "driver.after_end",  # a stage has ended, the database does not know it yet
    "scheduler.after_claim",  # claimed, not yet loaded
    "scheduler.after_restore",  # loaded and restored, not yet driven
    "leases.before_renew",
    "leases.after_release",  # handed over
    "attempt.before_run",  # in the stage's process
    "attempt.after_run",  # the work and its effects are done, the driver does not know it yet
    "attempt.after_undo",  # an effect is undone, the driver does not know it yet
    "artifacts.before_rename",  # a table is written under its temporary name
)


class InjectedFault(Exception):  # noqa: N818 - a fault, not an error of ours: no code may catch it by name
    """Raised by a failpoint that is armed with `raise`."""


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
            raise ValueError(
                f"{VARIABLE}: {item!r} is not NAME=ACTION with a known failpoint and kill, freeze or raise"
            )
        armed[name] = _Armed(action, int(count or 1))
    return armed


_ARMED = _armed(os.environ.get(VARIABLE, ""))


def point(name: str) -> None:
    """Fire the failpoint of this name if it is armed."""
    armed = _ARMED.get(name)
    if armed is None:
        return
    armed.countdown -= 1
    if armed.countdown > 0:
        return
    del _ARMED[name]
    if armed.action == "raise":
        raise InjectedFault(name)
    # signal this thread, so that it stops here: another thread may handle a signal to the process a little later
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
