"""Pipelines and their revisions: a definition is never changed, only followed by the next revision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, select, update

from flexiroaster.errors import ConflictError, NotFoundError
from flexiroaster.model.event import utc_now
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.store.database import Database
from flexiroaster.store.tables import pipeline_revisions, pipelines

__all__ = ["Revision", "create", "get", "listing", "replace"]


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
    """Store a new pipeline (with its id) as revision 1. Raises ConflictError when the id is taken."""
    now = utc_now()
    with database.write() as connection:
        taken = connection.execute(select(pipelines.c.deleted_at).where(pipelines.c.id == pipeline.id)).first()
        if taken is not None:
            raise ConflictError(f"Pipeline already exists: {pipeline.id}", pipeline_id=pipeline.id)
        connection.execute(insert(pipelines).values(**_row(pipeline), revision=1, created_at=now))
        _add_revision(connection, pipeline, 1, now)
    return Revision(pipeline, 1, now, None)


def replace(database: Database, pipeline: Pipeline, expected_revision: int | None = None) -> Revision:
    """Store the next revision of a pipeline; an equal definition makes none.

    Raises NotFoundError, or ConflictError when it is not at `expected_revision` any more.
    """
    now = utc_now()
    with database.write() as connection:
        statement = select(pipelines).where(pipelines.c.id == pipeline.id, pipelines.c.deleted_at.is_(None))
        found = connection.execute(statement.with_for_update()).first()
        if found is None:
            raise NotFoundError(f"Pipeline not found: {pipeline.id}", pipeline_id=pipeline.id)
        if expected_revision is not None and found.revision != expected_revision:
            message = f"Pipeline {pipeline.id} is at revision {found.revision}, not {expected_revision}"
            raise ConflictError(message, revision=found.revision)
        if _definition(connection, found.id, found.revision) == pipeline.document():
            return Revision(pipeline, found.revision, found.created_at, found.updated_at)
        revision = found.revision + 1
        change = update(pipelines).where(pipelines.c.id == pipeline.id)
        connection.execute(change.values(**_row(pipeline), revision=revision, updated_at=now))
        _add_revision(connection, pipeline, revision, now)
    return Revision(pipeline, revision, found.created_at, now)


def get(database: Database, pipeline_id: str, revision: int | None = None) -> Revision:
    """A pipeline at its newest, or the given, revision. Raises NotFoundError."""
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


def listing(database: Database, *, is_active: bool | None, skip: int, limit: int) -> tuple[list[Revision], int]:
    """A page of pipelines, oldest first, and how many match in all."""
    conditions: list[ColumnElement[bool]] = [pipelines.c.deleted_at.is_(None)]
    if is_active is not None:
        conditions.append(pipelines.c.is_active == is_active)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(pipelines).where(*conditions)).scalar_one()
        page = _joined(True).where(*conditions).order_by(pipelines.c.created_at, pipelines.c.id)
        rows = connection.execute(page.offset(skip).limit(limit)).all()
    return [_revision(row) for row in rows], total


def _joined(newest: bool) -> Select[Any]:
    on = pipeline_revisions.c.pipeline_id == pipelines.c.id
    if newest:
        on &= pipeline_revisions.c.revision == pipelines.c.revision
    columns = (pipeline_revisions.c.definition, pipeline_revisions.c.revision, pipelines.c.created_at)
    return select(*columns, pipelines.c.updated_at).join_from(pipelines, pipeline_revisions, on)


def _revision(row: Row[Any]) -> Revision:
    return Revision(Pipeline.model_validate(row.definition), row.revision, row.created_at, row.updated_at)


def _definition(connection: Connection, pipeline_id: str, revision: int) -> Any:  # noqa: ANN401 - JSON
    key = (pipeline_revisions.c.pipeline_id == pipeline_id, pipeline_revisions.c.revision == revision)
    return connection.execute(select(pipeline_revisions.c.definition).where(*key)).scalar_one()


def _add_revision(connection: Connection, pipeline: Pipeline, revision: int, now: datetime) -> None:
    row = {"pipeline_id": pipeline.id, "revision": revision, "definition": pipeline.document(), "created_at": now}
    connection.execute(insert(pipeline_revisions).values(row))


def _row(pipeline: Pipeline) -> dict[str, Any]:
    fields = {"id", "name", "description", "version", "is_active", "schedule"}
    return pipeline.model_dump(include=fields) | {"stage_count": len(pipeline.stages)}
