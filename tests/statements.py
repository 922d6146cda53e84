"""Count the statements that a call sends to the database, and the work that they cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from flexiroaster.service.installation import Installation

__all__ = ["database_work", "statements"]


@contextmanager
def statements(installation: Installation) -> Iterator[list[str]]:
    """The statements sent within the block, without those that begin a transaction."""
    sent: list[str] = []

    def note(_connection, _cursor, statement: str, _parameters, _context, _executemany) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)

    engine = installation.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def database_work(installation: Installation, call: Callable[[], object]) -> int:
    """The work of the database for the reads of a call, independent of the load of the machine.

    On SQLite: steps of its virtual machine; on PostgreSQL: rows that the plan nodes visit.
    """
    engine = installation.database.engine
    done = 0

    def steps(_connection, cursor, _statement: str, _parameters, _context, _executemany) -> None:
        def step() -> int:
            nonlocal done
            done += 1
            return 0

        cursor.connection.set_progress_handler(step, 1)

    def rows(_connection, cursor, statement: str, parameters, _context, _executemany) -> None:
        nonlocal done
        if statement.startswith("SELECT"):
            with cursor.connection.cursor() as beside:
                beside.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                done += _rows(beside.fetchone()[0][0]["Plan"])

    note = steps if installation.database.is_sqlite else rows
    event.listen(engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return done


def _rows(plan: dict[str, Any]) -> int:
    looked_at = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return round(plan["Actual Loops"] * looked_at) + sum(map(_rows, plan.get("Plans", ())))
