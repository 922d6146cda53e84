"""Waiting for what happens on another thread or in another process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import psycopg
from sqlalchemy.engine import make_url

__all__ = ["blocked", "eventually", "open_descriptors"]


def eventually(condition: Callable[[], object], within: float = 60.0) -> float:
    """Wait until the condition holds; the seconds that took. Fails when it does not hold within so many.

    The limit is there to end a test that hangs: a busy machine must not come near it.
    """
    started = monotonic()
    while not condition():
        assert monotonic() - started < within, f"not within {within} s"
        threading.Event().wait(0.005)
    return monotonic() - started


def open_descriptors() -> set[tuple[str, str]]:
    """What this process has open: number and what it leads to."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except OSError:  # the one that lists the folder
            continue
    return found


def blocked(database_url: str) -> int:
    """How many connections to a PostgreSQL database wait for a lock that another one holds."""
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = connection.execute(waiting).fetchone()
    return 0 if row is None else int(row[0])
