"""Changes in the list of executions: which executions have a new state.

An execution can pass through several states between two reads; only its current state counts. A client that was away
reads the live executions and those that ended meanwhile, and misses nothing that is still true.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flexiroaster.errors import InputError
from flexiroaster.model.execution import LIVE, TERMINAL, ExecutionStatus
from flexiroaster.service.executions.executions import ExecutionFilter, ExecutionRow
from flexiroaster.service.installation import Installation
from flexiroaster.store import executions
from flexiroaster.store.rows import LARGE

__all__ = ["among", "cursor", "listen", "moment", "since"]

MARGIN = timedelta(seconds=10)
"""Allowance for the clock skew between two processes and for the time a commit takes."""


def since(installation: Installation, wanted: ExecutionFilter, at: datetime | None = None) -> list[ExecutionRow]:
    """List the matching executions that are live, followed by those that ended since `at` minus `MARGIN`.

    The cost depends only on these executions, not on how many ended before. The large columns `variables` and `error`
    are not read.
    """
    database = installation.database
    found = executions.in_statuses(database, wanted, live, LARGE) if (live := _of(wanted, LIVE)) else []
    if at is not None and (ended := _of(wanted, TERMINAL)):
        found += executions.ended_since(database, replace(wanted, statuses=ended), at - MARGIN, LARGE)
    return found


def among(installation: Installation, wanted: ExecutionFilter, ids: Collection[str]) -> list[ExecutionRow]:
    """Read the current state of those executions that match."""
    return executions.among(installation.database, wanted, ids, LARGE)


def listen(installation: Installation, hear: Callable[[str | None], None]) -> Callable[[], None]:
    """Call `hear`, on any thread, with the id of an execution that may have a new state; None means any execution.

    Returns a function that unsubscribes. Raises StoreError.
    """
    return installation.signals.on_any_events(hear)


def cursor(at: datetime) -> str:
    """Encode a time as an opaque cursor from which changes can resume."""
    return base64.urlsafe_b64encode(at.astimezone(UTC).isoformat().encode()).rstrip(b"=").decode()


def moment(cursor: str) -> datetime:
    """Decode the time of a cursor. Raises InputError."""
    try:
        at = datetime.fromisoformat(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise InputError("the cursor is invalid: pass one that this API returned", argument="after") from error
    if at.tzinfo is None or at.year < 2000:
        raise InputError("the cursor is invalid: pass one that this API returned", argument="after")
    return at


def _of(wanted: ExecutionFilter, statuses: Collection[ExecutionStatus]) -> tuple[ExecutionStatus, ...]:
    """The given statuses that the filter also allows."""
    allowed = statuses if wanted.statuses is None else wanted.statuses
    return tuple(status for status in ExecutionStatus if status in statuses and status in allowed)
