"""Pipelines: store a definition, give it its next revision, find it again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from flexiroaster.errors import ConflictError, NotFoundError
from flexiroaster.model.pipeline import Pipeline
from flexiroaster.service.definition import check, check_variables, read_definition, with_defaults
from flexiroaster.service.installation import Installation
from flexiroaster.store import definitions
from flexiroaster.store.definitions import Revision

__all__ = [
    "Revision",
    "check",
    "check_variables",
    "create",
    "get",
    "listing",
    "new_id",
    "read_definition",
    "replace",
    "save",
    "with_defaults",
]


def new_id() -> str:
    """A fresh pipeline id."""
    return f"pipeline-{secrets.token_hex(6)}"


def create(installation: Installation, raw: object) -> Revision:
    """Check a definition and store it as a new pipeline. Raises DefinitionError, ConflictError (id taken)."""
    pipeline = check(raw, installation.access)
    pipeline = with_defaults(pipeline, installation.settings)
    return definitions.create(installation.database, pipeline.model_copy(update={"id": pipeline.id or new_id()}))


def replace(
    installation: Installation, pipeline_id: str, raw: object, expected_revision: int | None = None
) -> Revision:
    """Check a definition and store it as the next revision of a pipeline; executions keep the one they have.

    Raises DefinitionError, NotFoundError, ConflictError (it is not at `expected_revision` any more).
    """
    pipeline = with_defaults(check(raw, installation.access), installation.settings)
    pipeline = pipeline.model_copy(update={"id": pipeline_id})
    return definitions.replace(installation.database, pipeline, expected_revision)


def save(installation: Installation, raw: object) -> Revision:
    """Create the pipeline, or its next revision where the definition's id is known already."""
    if isinstance(raw, Pipeline) and raw.id is not None:
        pipeline_id: str | None = raw.id
    else:
        pipeline_id = raw.get("id") if isinstance(raw, Mapping) else None
    if pipeline_id is not None:
        try:
            return replace(installation, pipeline_id, raw)
        except NotFoundError:
            pass  # the first time
    try:
        return create(installation, raw)
    except ConflictError:
        if pipeline_id is None:
            raise
        return replace(installation, pipeline_id, raw)  # another process was first


def get(installation: Installation, pipeline_id: str, revision: int | None = None) -> Revision:
    """A pipeline at its newest, or the given, revision. Raises NotFoundError."""
    return definitions.get(installation.database, pipeline_id, revision)


def listing(
    installation: Installation, *, is_active: bool | None = None, skip: int = 0, limit: int = 100
) -> tuple[list[Revision], int]:
    """A page of pipelines, oldest first, and how many match in all."""
    return definitions.listing(installation.database, is_active=is_active, skip=skip, limit=limit)
