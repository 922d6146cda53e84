"""Pipelines and their revisions: a stored definition never changes; an update adds the next revision.

The active flag belongs to the pipeline, not to a revision: switching it creates no revision.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Integer, Row, Select, cast, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.operators import eq, in_op

from flexiroaster.errors import ConflictError, DefinitionError, NotFoundError, Problem
from flexiroaster.model.event import utc_now
from flexiroaster.model.execution import LIVE
from flexiroaster.model.paging import Page, Window
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.model.validation_messages import problems_of
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Condition, Sort, TableReader, conditions
from flexiroaster.store.tables import executions, pipeline_revisions, pipelines

__all__ = [
    "PipelineFilter",
    "PipelineRow",
    "PipelineSort",
    "PipelineTotals",
    "Revision",
    "RevisionRow",
    "by_keys",
    "create",
    "definition",
    "delete",
    "get",
    "listing",
    "pipeline_count",
    "pipeline_offset_page",
    "pipeline_page",
    "pipeline_totals",
    "pipelines_by_id",
    "replace",
    "revision_page",
    "revision_rows",
    "set_active",
]


MAX_NAMED = 5
"""The maximum number of live executions that an error message names."""

_REVISION_KEY = tuple_(pipeline_revisions.c.pipeline_id, pipeline_revisions.c.revision)


@dataclass(frozen=True, slots=True)
class Revision:
    """A pipeline at one of its revisions."""

    pipeline: Pipeline
    revision: int
    created_at: datetime
    updated_at: datetime | None

    @property
    def id(self) -> str:
        """The pipeline's id; a stored pipeline always has one."""
        return str(self.pipeline.id)


def create(database: Database, pipeline: Pipeline) -> Revision:
    """Store a new pipeline, which has its id, as revision 1; a deleted pipeline's id continues its revision numbers.

    Raises ConflictError when the id is taken.
    """
    now = utc_now()
    with database.write() as connection:
        columns = (pipelines.c.deleted_at, pipelines.c.revision)
        earlier = connection.execute(select(*columns).where(pipelines.c.id == pipeline.id).with_for_update()).first()
        if earlier is not None and earlier.deleted_at is None:
            raise ConflictError(f"Pipeline already exists: {pipeline.id}", pipeline_id=pipeline.id)
        revision = 1 if earlier is None else earlier.revision + 1
        values = {**_row(pipeline), "revision": revision, "created_at": now, "updated_at": None, "deleted_at": None}
        if earlier is None:
            try:
                connection.execute(insert(pipelines).values(values))
            except IntegrityError as error:  # another process was first
                raise ConflictError(f"Pipeline already exists: {pipeline.id}", pipeline_id=pipeline.id) from error
        else:
            connection.execute(update(pipelines).where(pipelines.c.id == pipeline.id).values(values))
        _add_revision(connection, pipeline, revision, now)
    return Revision(pipeline, revision, now, None)


def replace(
    database: Database, pipeline: Pipeline, expected_revision: int | None = None, *, keep_active: bool = False
) -> Revision:
    """Store the next revision of a pipeline; an equal definition adds none. `keep_active` keeps the active flag.

    Raises NotFoundError, and ConflictError when the pipeline is no longer at `expected_revision`.
    """
    now = utc_now()
    with database.write() as connection:
        found = _lock(connection, str(pipeline.id))
        if expected_revision is not None and found.revision != expected_revision:
            message = f"Pipeline {pipeline.id} is at revision {found.revision}, not {expected_revision}"
            raise ConflictError(message, revision=found.revision)
        if keep_active:
            pipeline = pipeline.model_copy(update={"is_active": found.is_active})
        same = _definition(connection, found.id, found.revision) == _document(pipeline)
        if same and found.is_active == pipeline.is_active:
            return Revision(pipeline, found.revision, found.created_at, found.updated_at)
        revision = found.revision if same else found.revision + 1
        change = update(pipelines).where(pipelines.c.id == pipeline.id)
        connection.execute(change.values(**_row(pipeline), revision=revision, updated_at=now))
        if not same:
            _add_revision(connection, pipeline, revision, now)
    return Revision(pipeline, revision, found.created_at, now)


def set_active(database: Database, pipeline_id: str, active: bool) -> None:
    """Activate or deactivate a pipeline. Raises NotFoundError."""
    with database.write() as connection:
        if _lock(connection, pipeline_id).is_active != active:
            change = update(pipelines).where(pipelines.c.id == pipeline_id)
            connection.execute(change.values(is_active=active, updated_at=utc_now()))


def delete(database: Database, pipeline_id: str) -> None:
    """Mark a pipeline as deleted; its executions and revisions stay.

    Raises NotFoundError, and ConflictError, which names some executions, while executions of it are live.
    """
    live = select(executions.c.id).where(executions.c.pipeline_id == pipeline_id, executions.c.status.in_(sorted(LIVE)))
    with database.write() as connection:
        _lock(connection, pipeline_id)
        ids = list(connection.execute(live.order_by(executions.c.created_at).limit(MAX_NAMED + 1)).scalars())
        if ids:
            named = ", ".join(ids[:MAX_NAMED]) + (", ..." if len(ids) > MAX_NAMED else "")
            message = f"Pipeline {pipeline_id} has live executions: {named}"
            raise ConflictError(message, pipeline_id=pipeline_id, executions=ids[:MAX_NAMED])
        connection.execute(update(pipelines).where(pipelines.c.id == pipeline_id).values(deleted_at=utc_now()))


def get(database: Database, pipeline_id: str, revision: int | None = None) -> Revision:
    """Return a pipeline at its newest, or the given, revision. Raises NotFoundError."""
    with database.read() as connection:
        statement = _joined(revision is None).where(pipelines.c.id == pipeline_id)
        if revision is not None:
            statement = statement.where(pipeline_revisions.c.revision == revision)
        else:
            statement = statement.where(pipelines.c.deleted_at.is_(None))
        row = connection.execute(statement).first()
    if row is None:
        raise NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return _revision(row)


def definition(database: Database, pipeline_id: str, revision: int) -> Pipeline:
    """Return the definition of a pipeline at a revision, which never changes.

    Raises NotFoundError, and DefinitionError when this release cannot read the definition.
    """
    with database.read() as connection:
        document = _definition(connection, pipeline_id, revision)
    if document is None:
        raise NotFoundError(f"Pipeline not found: {pipeline_id}, revision {revision}", pipeline_id=pipeline_id)
    return _read(document, pipeline_id, revision)


def listing(database: Database, limit: int = 100) -> tuple[list[Revision], int]:
    """Return the `limit` oldest pipelines with their definitions, oldest first, and the number of all pipelines."""
    statement = _joined(True).where(pipelines.c.deleted_at.is_(None)).order_by(pipelines.c.created_at, pipelines.c.id)
    with database.read() as connection:
        total = connection.execute(
            select(func.count()).select_from(pipelines).where(pipelines.c.deleted_at.is_(None))
        ).scalar_one()
        return [_revision(row) for row in connection.execute(statement.limit(limit))], total


def by_keys(database: Database, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], Revision]:
    """Return those of these (pipeline id, revision) that exist, including revisions of deleted pipelines."""
    with database.read() as connection:
        rows = connection.execute(_joined(False).where(_REVISION_KEY.in_(list(keys))))
        found = [_revision(row) for row in rows]
    return {(revision.id, revision.revision): revision for revision in found}


def _joined(newest: bool) -> Select[Any]:
    on = pipeline_revisions.c.pipeline_id == pipelines.c.id
    if newest:
        on &= pipeline_revisions.c.revision == pipelines.c.revision
    columns = (pipeline_revisions.c.definition, pipeline_revisions.c.revision, pipelines.c.is_active)
    times = (pipelines.c.created_at, pipelines.c.updated_at)
    return select(*columns, *times).join_from(pipelines, pipeline_revisions, on)


def _read(document: object, pipeline_id: object, revision: int) -> Pipeline:
    """Parse a stored document. Raises DefinitionError, which names pipeline and revision."""
    try:
        return Pipeline.model_validate(document)
    except ValidationError as error:
        what = f"pipeline {pipeline_id!r} at revision {revision} cannot be read by this release"
        raise DefinitionError([Problem("", what, "unreadable"), *problems_of(error, document, Pipeline)]) from error


def _revision(row: Row[Any]) -> Revision:
    pipeline = _read({**row.definition, "is_active": row.is_active}, row.definition.get("id"), row.revision)
    return Revision(pipeline, row.revision, row.created_at, row.updated_at)


def _lock(connection: Connection, pipeline_id: str) -> Row[Any]:
    """Lock the row of a pipeline until the transaction ends. Raises NotFoundError, also for a deleted pipeline."""
    statement = select(pipelines).where(pipelines.c.id == pipeline_id, pipelines.c.deleted_at.is_(None))
    row = connection.execute(statement.with_for_update()).first()
    if row is None:
        raise NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return row


def _document(pipeline: Pipeline) -> dict[str, Any]:
    """Return the part of a pipeline that its revision stores."""
    return {name: value for name, value in pipeline.document().items() if name != "is_active"}


def _definition(connection: Connection, pipeline_id: str, revision: int) -> Any:  # noqa: ANN401 - JSON
    key = (pipeline_revisions.c.pipeline_id == pipeline_id, pipeline_revisions.c.revision == revision)
    return connection.execute(select(pipeline_revisions.c.definition).where(*key)).scalar()


def _add_revision(connection: Connection, pipeline: Pipeline, revision: int, now: datetime) -> None:
    row = {"pipeline_id": pipeline.id, "revision": revision, "definition": _document(pipeline), "created_at": now}
    connection.execute(insert(pipeline_revisions).values(row))


def _row(pipeline: Pipeline) -> dict[str, Any]:
    fields = {"id", "name", "description", "version", "is_active", "schedule"}
    return pipeline.model_dump(include=fields) | {"stage_count": len(pipeline.stages)}


# --- lists, without the definitions ----------------------------------------------------------------------------------


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


_reader = TableReader(pipelines, PipelineRow)
_revision_reader = TableReader(pipeline_revisions, RevisionRow)
_NEWEST_REVISION = Sort("revision desc", pipeline_revisions.c.revision, descending=True)


def pipeline_page(
    database: Database,
    wanted: PipelineFilter = PipelineFilter(),
    sort: PipelineSort = PipelineSort.OLDEST,
    window: Window | None = None,
) -> Page[PipelineRow]:
    """Return a page of the matching pipelines. Raises InputError (cursor)."""
    with database.read() as connection:
        return _reader.page(connection, _conditions(wanted), sort.value, window or Window())


def pipeline_offset_page(
    database: Database, wanted: PipelineFilter, skip: int, limit: int
) -> tuple[list[PipelineRow], int]:
    """Return up to `limit` matches after `skip`, oldest first, and the total number of matches.

    The cost grows with `skip`; that of `pipeline_page` does not depend on the position.
    """
    with database.read() as connection:
        return _reader.offset_page(connection, _conditions(wanted), PipelineSort.OLDEST.value, skip, limit)


def pipeline_count(database: Database, wanted: PipelineFilter = PipelineFilter()) -> int:
    """Count the matching pipelines; scans all of them."""
    with database.read() as connection:
        return _reader.count(connection, _conditions(wanted))


def pipelines_by_id(database: Database, pipeline_ids: Collection[str]) -> dict[str, PipelineRow]:
    """Return those of these pipelines that exist, by id; deleted pipelines are missing."""
    wanted = _reader.select(pipelines.c.id.in_(pipeline_ids), pipelines.c.deleted_at.is_(None))
    with database.read() as connection:
        return {row.id: row for row in _reader.all(connection, wanted)}


def revision_rows(database: Database, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], RevisionRow]:
    """Return those of these (pipeline id, revision) that exist, including revisions of deleted pipelines."""
    wanted = _revision_reader.select(_REVISION_KEY.in_(list(keys)))
    with database.read() as connection:
        return {(row.pipeline_id, row.revision): row for row in _revision_reader.all(connection, wanted)}


def revision_page(database: Database, pipeline_id: str, window: Window = Window()) -> Page[RevisionRow]:
    """Return a page of the revisions of a pipeline, newest first. Raises InputError (cursor)."""
    with database.read() as connection:
        of_pipeline = [pipeline_revisions.c.pipeline_id == pipeline_id]
        return _revision_reader.page(connection, of_pipeline, _NEWEST_REVISION, window)


def _conditions(wanted: PipelineFilter) -> list[Condition]:
    columns = pipelines.c
    found = conditions((columns.id, in_op, wanted.ids), (columns.is_active, eq, wanted.is_active))
    if wanted.text:
        searched = (columns.id, columns.name, columns.description)
        found.append(or_(*(field.icontains(wanted.text, autoescape=True) for field in searched)))
    return [columns.deleted_at.is_(None), *found]


@dataclass(frozen=True, slots=True)
class PipelineTotals:
    """The number of pipelines, and of active pipelines."""

    total: int
    active: int


def pipeline_totals(database: Database) -> PipelineTotals:
    """Count all pipelines that are not deleted."""
    active = func.coalesce(func.sum(cast(pipelines.c.is_active, Integer)), 0)
    statement = select(func.count(), active).where(pipelines.c.deleted_at.is_(None))
    with database.read() as connection:
        total, active_total = connection.execute(statement).one()
    return PipelineTotals(total, int(active_total))
