"""Wait for events on other threads and in other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TypeVar

import psycopg
from sqlalchemy.engine import make_url

__all__ = ["PATIENT", "blocked", "eventually", "open_descriptors"]

T = TypeVar("T")

PATIENT: Mapping[str, float] = {"redis_socket_timeout": 60.0, "execution_lock_ttl": 180.0}
"""Settings with which Redis stays, however long a busy machine takes to answer.

No call to Redis may take longer than a third of a lease, so the lease must be long as well.
"""


def eventually(condition: Callable[[], T], within: float = 120.0, what: str = "it") -> T:
    """Wait until `condition` returns a true value, and return it. Fails if it does not within `within` seconds.

    The limit only ends a test that hangs; choose it so that a busy machine stays far below it.
    """
    deadline, pause = monotonic() + within, 0.002
    while not (found := condition()):
        if monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {within:g} s")
        threading.Event().wait(pause)
        pause = min(1.3 * pause, 0.05)  # what is waited for needs the processor more than we do
    return found


def open_descriptors() -> set[tuple[str, str]]:
    """The open descriptors of this process: number and target."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except OSError:  # the one that lists the folder
            continue
    return found


def blocked(database_url: str) -> int:
    """The number of connections to a PostgreSQL database that wait for a lock of another one."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = connection.execute(waiting).fetchone()
    return 0 if row is None else int(row[0])
