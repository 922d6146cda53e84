"""Lists of pipelines and of their revisions: filtered, sorted, in pages, without the definitions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, tuple_

from flexiroaster.store import sql
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Page, Sort, Window
from flexiroaster.store.tables import pipeline_revisions, pipelines

__all__ = [
    "PipelineFilter",
    "PipelineRow",
    "PipelineSort",
    "RevisionRow",
    "by_ids",
    "count",
    "page",
    "part",
    "revision_page",
    "revision_rows",
]


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """A pipeline at its newest revision, without the definition."""

    id: str
    name: str
    description: str
    version: str
    is_active: bool
    schedule: str | None
    stage_count: int
    revision: int
    created_at: datetime
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """A revision of a pipeline, without the definition; `created_at` is the time of this revision."""

    pipeline_id: str
    revision: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PipelineFilter:
    """A filter for pipelines; a field that is None matches all. Deleted pipelines never match.

    `text` is searched in id, name and description, ignoring case (on SQLite only of ASCII letters).
    """

    ids: tuple[str, ...] | None = None
    is_active: bool | None = None
    text: str | None = None


class PipelineSort(Enum):
    """The sort orders of pipelines. In an order by update time, pipelines that were never updated come last."""

    OLDEST = Sort("created_at", pipelines.c.id, pipelines.c.created_at)
    NEWEST = Sort("created_at desc", pipelines.c.id, pipelines.c.created_at, descending=True)
    NAME = Sort("name", pipelines.c.id, pipelines.c.name)
    NAME_LAST = Sort("name desc", pipelines.c.id, pipelines.c.name, descending=True)
    UPDATED_FIRST = Sort("updated_at", pipelines.c.id, pipelines.c.updated_at)
    UPDATED_LAST = Sort("updated_at desc", pipelines.c.id, pipelines.c.updated_at, descending=True)


_NEWEST_REVISION = Sort("revision desc", pipeline_revisions.c.revision, descending=True)
_COLUMNS = [pipelines.c[name] for name in PipelineRow.__slots__]


def page(
    database: Database,
    wanted: PipelineFilter,
    sort: PipelineSort = PipelineSort.OLDEST,
    window: Window | None = None,
) -> Page[PipelineRow]:
    """Return a page of the matching pipelines. Raises InputError (cursor)."""
    statement = select(*_COLUMNS).where(*_conditions(wanted))
    with database.read() as connection:
        return sql.page(connection, statement, sort.value, window or Window(), _row)


def part(database: Database, wanted: PipelineFilter, skip: int, limit: int) -> tuple[list[PipelineRow], int]:
    """Return up to `limit` matches after `skip`, oldest first, and the total number of matches.

    The cost grows with `skip`.
    """
    conditions = _conditions(wanted)
    statement = select(*_COLUMNS).where(*conditions).order_by(pipelines.c.created_at, pipelines.c.id)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(pipelines).where(*conditions)).scalar_one()
        return [_row(row) for row in connection.execute(statement.offset(skip).limit(limit))], total


def count(database: Database, wanted: PipelineFilter) -> int:
    """Count the matching pipelines; scans all of them."""
    statement = select(func.count()).select_from(pipelines).where(*_conditions(wanted))
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


def by_ids(database: Database, pipeline_ids: Collection[str]) -> dict[str, PipelineRow]:
    """Return those of these pipelines that exist, by id; deleted pipelines are missing."""
    statement = select(*_COLUMNS).where(pipelines.c.id.in_(pipeline_ids), pipelines.c.deleted_at.is_(None))
    with database.read() as connection:
        return {row.id: _row(row) for row in connection.execute(statement)}


def revision_rows(database: Database, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], RevisionRow]:
    """Return those of these (pipeline id, revision) that exist, including revisions of deleted pipelines."""
    wanted = tuple_(pipeline_revisions.c.pipeline_id, pipeline_revisions.c.revision).in_(list(keys))
    columns = [pipeline_revisions.c[name] for name in RevisionRow.__slots__]
    with database.read() as connection:
        found = [RevisionRow(**row._mapping) for row in connection.execute(select(*columns).where(wanted))]
    return {(row.pipeline_id, row.revision): row for row in found}


def revision_page(database: Database, pipeline_id: str, window: Window) -> Page[RevisionRow]:
    """Return a page of the revisions of a pipeline, newest first. Raises InputError (cursor)."""
    columns = [pipeline_revisions.c[name] for name in RevisionRow.__slots__]
    statement = select(*columns).where(pipeline_revisions.c.pipeline_id == pipeline_id)
    with database.read() as connection:
        return sql.page(connection, statement, _NEWEST_REVISION, window, lambda row: RevisionRow(**row._mapping))


def _row(row: Row[Any]) -> PipelineRow:
    return PipelineRow(**row._mapping)


def _conditions(wanted: PipelineFilter) -> list[ColumnElement[bool]]:
    columns = pipelines.c
    found: list[ColumnElement[bool]] = [columns.deleted_at.is_(None)]
    if wanted.ids is not None:
        found.append(columns.id.in_(wanted.ids))
    if wanted.is_active is not None:
        found.append(columns.is_active == wanted.is_active)
    if wanted.text:
        fields = (columns.id, columns.name, columns.description)
        found.append(or_(*(field.icontains(wanted.text, autoescape=True) for field in fields)))
    return found
