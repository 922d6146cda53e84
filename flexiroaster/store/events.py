"""Pages of the events of an execution."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.paging import Page, Window
from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.executions import event_of
from flexiroaster.store.sql import Sort
from flexiroaster.store.tables import events

__all__ = ["BY_NUMBER", "EventFilter", "count", "page"]

BY_NUMBER = Sort("seq", events.c.seq)
"""The order of events: by number."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter for the events of an execution; a field that is None matches all. Both numbers are exclusive."""

    after: int | None = None
    before: int | None = None
    levels: tuple[Level, ...] | None = None
    types: tuple[EventType, ...] | None = None
    stage_id: str | None = None


def page(
    database: Database, execution_id: str, wanted: EventFilter = EventFilter(), window: Window = Window()
) -> Page[Event]:
    """Return a page of the matching events of an execution, in order; empty if the execution does not exist.

    Raises InputError (cursor).
    """
    statement = select(events).where(*_conditions(execution_id, wanted))
    with database.read() as connection:
        return sql.page(connection, statement, BY_NUMBER, window, event_of)


def count(database: Database, execution_id: str, wanted: EventFilter = EventFilter()) -> int:
    """Count the matching events; scans all of them."""
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
