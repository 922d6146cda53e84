"""Changes in the list of executions: which ones are in another state than before.

Between two looks an execution may pass through several states; what counts is the one it is in now. So whoever was
away asks for those that have not ended and those that have ended meanwhile, and has missed nothing that still holds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flexiroaster.errors import InputError
from flexiroaster.model.execution import LIVE, TERMINAL, ExecutionStatus
from flexiroaster.service.executions import ExecutionFilter, ExecutionRow
from flexiroaster.service.installation import Installation
from flexiroaster.store import execution_list
from flexiroaster.store.rows import LARGE

__all__ = ["among", "cursor", "listen", "moment", "since"]

MARGIN = timedelta(seconds=10)
"""How much the clocks of two processes may differ, and how long a commit may take."""


def since(installation: Installation, wanted: ExecutionFilter, at: datetime | None = None) -> list[ExecutionRow]:
    """The executions that match and have not ended, and after them those that have ended since that time.

    The latter from `MARGIN` before it. Costs what has not ended and what has ended since, however much ended before.
    Without what may be large (`variables`, `error`).
    """
    database = installation.database
    found = execution_list.in_statuses(database, wanted, live, LARGE) if (live := _of(wanted, LIVE)) else []
    if at is not None and (ended := _of(wanted, TERMINAL)):
        found += execution_list.ended_since(database, replace(wanted, statuses=ended), at - MARGIN, LARGE)
    return found


def among(installation: Installation, wanted: ExecutionFilter, ids: Collection[str]) -> list[ExecutionRow]:
    """Those of these executions that match, as they are."""
    return execution_list.among(installation.database, wanted, ids, LARGE)


def listen(installation: Installation, hear: Callable[[str | None], None]) -> Callable[[], None]:
    """Call `hear`, on any thread, with an execution that may be in another state, None for any; the result ends that.

    Raises StoreError.
    """
    return installation.signals.on_any_events(hear)


def cursor(at: datetime) -> str:
    """A time as opaque text, from which changes go on."""
    return base64.urlsafe_b64encode(at.astimezone(UTC).isoformat().encode()).rstrip(b"=").decode()


def moment(cursor: str) -> datetime:
    """The time that a cursor stands for. Raises InputError."""
    try:
        at = datetime.fromisoformat(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise InputError("the cursor is not one that was given out", argument="after") from error
    if at.tzinfo is None or at.year < 2000:
        raise InputError("the cursor is not one that was given out", argument="after")
    return at


def _of(wanted: ExecutionFilter, statuses: Collection[ExecutionStatus]) -> tuple[ExecutionStatus, ...]:
    """Those of the statuses that the filter lets through."""
    allowed = statuses if wanted.statuses is None else wanted.statuses
    return tuple(status for status in ExecutionStatus if status in statuses and status in allowed)
