"""How many statements a call sends to the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from flexiroaster.service.installation import Installation

__all__ = ["statements"]


@contextmanager
def statements(installation: Installation) -> Iterator[list[str]]:
    """The statements that are sent within the block, as they are sent; those that begin a transaction do not count."""
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
