"""The audit log: who did what, when and with which outcome. Append-only; retention deletes old rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, select

from flexiroaster.model.viewer import Role
from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Page, Sort, Window
from flexiroaster.store.tables import audit_log

__all__ = ["NEWEST", "AuditFilter", "AuditRow", "count", "page", "record"]

NEWEST = Sort("audit", audit_log.c.id, descending=True)
"""The order of the log: newest first."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry: `viewer`, with `role`, did `action` on `subject`; `outcome` is `ok` or the code of an error."""

    id: int
    at: datetime
    viewer: str
    role: Role
    action: str
    subject: str | None
    arguments: dict[str, Any]
    outcome: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """A filter for entries; a field that is None matches all. `before` is exclusive."""

    viewer: str | None = None
    action: str | None = None
    subject: str | None = None
    after: datetime | None = None
    before: datetime | None = None


def record(database: Database, **entry: Any) -> None:  # noqa: ANN401 - the columns of the table except the id
    """Add an entry, with one statement."""
    with database.write() as connection:
        connection.execute(insert(audit_log).values(**entry))


def page(database: Database, wanted: AuditFilter, window: Window) -> Page[AuditRow]:
    """Return a page of the matching entries, newest first. Raises InputError (cursor)."""
    statement = select(*(audit_log.c[name] for name in AuditRow.__slots__)).where(*_conditions(wanted))
    with database.read() as connection:
        return sql.page(connection, statement, NEWEST, window, _entry)


def _entry(row: Row[Any]) -> AuditRow:
    return AuditRow(**{**row._mapping, "role": Role(row.role)})


def count(database: Database, wanted: AuditFilter) -> int:
    """Count the matching entries; scans all of them."""
    statement = select(func.count()).select_from(audit_log).where(*_conditions(wanted))
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    columns = audit_log.c
    found: list[ColumnElement[bool] | None] = [
        None if wanted.viewer is None else columns.viewer == wanted.viewer,
        None if wanted.action is None else columns.action == wanted.action,
        None if wanted.subject is None else columns.subject == wanted.subject,
        None if wanted.after is None else columns.at >= wanted.after,
        None if wanted.before is None else columns.at < wanted.before,
    ]
    return [condition for condition in found if condition is not None]
