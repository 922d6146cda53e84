"""The events of an execution, page by page."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.store import keyset
from flexiroaster.store.database import Database
from flexiroaster.store.keyset import Page, Sort, Window
from flexiroaster.store.rows import event_of
from flexiroaster.store.tables import events

__all__ = ["BY_NUMBER", "EventFilter", "count", "page"]

BY_NUMBER = Sort("seq", events.c.seq)
"""The order of events; the key is the number alone."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of an execution; what is None does not matter. Both numbers are exclusive."""

    after: int | None = None
    before: int | None = None
    levels: tuple[Level, ...] | None = None
    types: tuple[EventType, ...] | None = None
    stage_id: str | None = None


def page(database: Database, execution_id: str, wanted: EventFilter, window: Window) -> Page[Event]:
    """A page of the events of an execution that match, in order. Raises InputError (cursor)."""
    statement = select(events).where(*_conditions(execution_id, wanted))
    with database.read() as connection:
        return keyset.page(connection, statement, BY_NUMBER, window, event_of)


def count(database: Database, execution_id: str, wanted: EventFilter) -> int:
    """How many match; looks at each of them."""
    statement = select(func.count()).select_from(events).where(*_conditions(execution_id, wanted))
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


def _conditions(execution_id: str, wanted: EventFilter) -> list[ColumnElement[bool]]:
    columns = events.c
    found: list[ColumnElement[bool] | None] = [
        columns.execution_id == execution_id,
        None if wanted.after is None else columns.seq > wanted.after,
        None if wanted.before is None else columns.seq < wanted.before,
        None if wanted.levels is None else columns.level.in_(wanted.levels),
        None if wanted.types is None else columns.type.in_(wanted.types),
        None if wanted.stage_id is None else columns.stage_id == wanted.stage_id,
    ]
    return [condition for condition in found if condition is not None]
