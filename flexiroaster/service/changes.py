"""Changes in the list of executions: which ones are in another state than before.

Between two looks an execution may pass through several states; what counts is the one it is in now. So whoever was
away asks for those that have not ended and those that have ended meanwhile, and has missed nothing that still holds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from flexiroaster.errors import InputError
from flexiroaster.model.execution import LIVE, TERMINAL, ExecutionStatus
from flexiroaster.service import executions
from flexiroaster.service.executions import ExecutionFilter, ExecutionRow, ExecutionSort
from flexiroaster.service.installation import Installation
from flexiroaster.service.paging import MOST, Window
from flexiroaster.store.rows import LARGE

__all__ = ["among", "cursor", "listen", "moment", "since"]

MARGIN = timedelta(seconds=10)
"""How much the clocks of two processes may differ, and how long a commit may take."""


def since(installation: Installation, wanted: ExecutionFilter, at: datetime | None = None) -> list[ExecutionRow]:
    """The executions that match and have not ended, and after them those that have ended since that time.

    The latter from `MARGIN` before it, the last one first. Without what may be large (`variables`, `error`).
    """
    live = _with_statuses(wanted, LIVE)
    found = list(_pages(installation, live, ExecutionSort.OLDEST)) if live else []
    ended = _with_statuses(wanted, TERMINAL)
    if at is not None and ended:
        begin = at - MARGIN
        last_first = _pages(installation, ended, ExecutionSort.COMPLETED_LAST)
        found += takewhile(lambda row: row.completed_at is not None and row.completed_at >= begin, last_first)
    return found


def among(installation: Installation, wanted: ExecutionFilter, ids: Collection[str]) -> list[ExecutionRow]:
    """Those of these executions that match, as they are."""
    ordered = sorted(ids)
    parts = [tuple(ordered[begin : begin + MOST]) for begin in range(0, len(ordered), MOST)]
    return [row for part in parts for row in _pages(installation, replace(wanted, ids=part), ExecutionSort.OLDEST)]


def listen(installation: Installation, hear: Callable[[str | None], None]) -> Callable[[], None]:
    """Call `hear`, on any thread, with an execution that may be in another state, None for any; the result ends that.

    Raises StoreError.
    """
    signals = installation.signals
    ends = (signals.on_any_events(hear), signals.on_work(lambda: hear(None)))

    def end() -> None:
        for each in ends:
            each()

    return end


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


def _with_statuses(wanted: ExecutionFilter, statuses: Collection[ExecutionStatus]) -> ExecutionFilter | None:
    """The same filter for some of the states; None where it has none of them."""
    left = tuple(status for status in ExecutionStatus if status in statuses and status in (wanted.statuses or statuses))
    return replace(wanted, statuses=left) if left and wanted.statuses != () else None


def _pages(installation: Installation, wanted: ExecutionFilter, sort: ExecutionSort) -> Iterator[ExecutionRow]:
    after: str | None = None
    while True:
        page = executions.page(installation, wanted, sort, Window(first=MOST, after=after), LARGE)
        yield from page.items
        if not page.has_next:
            return
        after = page.cursors[-1]
