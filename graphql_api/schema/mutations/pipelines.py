"""Mutations of pipelines: create, update, delete, activate, deactivate and validate."""

from __future__ import annotations

from typing import Annotated

import strawberry

from flexiroaster import errors
from flexiroaster.model.viewer import Role
from flexiroaster.service import pipelines
from flexiroaster.service.definition import unset_variables
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.errors import (
    ConflictError,
    DefinitionError,
    DefinitionProblem,
    InputError,
    NotFoundError,
    problems_of,
)
from graphql_api.schema.inputs import PipelineChanges, PipelineInput, document, json_object
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.relay import key_of
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served
from graphql_api.schema.types.pipeline import Pipeline

__all__ = ["PipelineMutations"]


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineSaved:
    """The pipeline as it is now stored."""

    pipeline: Pipeline


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineDeleted:
    """The pipeline no longer appears in lists; its executions and revisions are kept."""

    pipeline_id: str


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineChecked:
    """The result of checking a definition; nothing was stored."""

    valid: bool
    problems: list[DefinitionProblem]
    order: list[str] = strawberry.field(description="Stage ids in topological order; empty for an invalid definition.")
    unset_variables: list[str] = strawberry.field(description="Names of the variables that a start must supply.")


@strawberry.input
class CreatePipelineInput:
    """The definition of a new pipeline."""

    pipeline: PipelineInput


@strawberry.input
class UpdatePipelineInput:
    """Changes that create the next revision of a pipeline. Executions keep the revision they started with."""

    id: strawberry.ID
    changes: PipelineChanges
    expected_revision: int | None = strawberry.field(
        default=None, description="Refuse the update with a conflict unless this is the current revision."
    )


@strawberry.input
class PipelineIdInput:
    """The pipeline to act on, by its global id or its `pipelineId`."""

    id: strawberry.ID


@strawberry.input
class ValidatePipelineInput:
    """The definition to check, and the variables of a possible start."""

    pipeline: PipelineInput
    variables: JSON | None = strawberry.field(default=None, description="Variables as a start would pass them.")


CreatePipelinePayload = Annotated[
    PipelineSaved | DefinitionError | NotFoundError | ConflictError | InputError,
    strawberry.union("CreatePipelinePayload", description="The stored pipeline, or an error."),
]
UpdatePipelinePayload = Annotated[
    PipelineSaved | DefinitionError | NotFoundError | ConflictError | InputError,
    strawberry.union("UpdatePipelinePayload", description="The stored pipeline, or an error."),
]
DeletePipelinePayload = Annotated[
    PipelineDeleted | NotFoundError | ConflictError | InputError,
    strawberry.union("DeletePipelinePayload", description="The id of the deleted pipeline, or an error."),
]
ActivatePipelinePayload = Annotated[
    PipelineSaved | NotFoundError | InputError,
    strawberry.union("ActivatePipelinePayload", description="The changed pipeline, or an error."),
]


def _create(info: Info, input: CreatePipelineInput) -> CreatePipelinePayload:  # noqa: A002 - the API's name
    return _saved(info, pipelines.create(info.context.installation, document(input.pipeline)).id)


def _update(info: Info, input: UpdatePipelineInput) -> UpdatePipelinePayload:  # noqa: A002 - the API's name
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.update(info.context.installation, pipeline_id, document(input.changes), input.expected_revision)
    return _saved(info, pipeline_id)


def _delete(info: Info, input: PipelineIdInput) -> DeletePipelinePayload:  # noqa: A002 - the API's name
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.delete(info.context.installation, pipeline_id)
    return PipelineDeleted(pipeline_id=pipeline_id)


def _activate(info: Info, input: PipelineIdInput) -> ActivatePipelinePayload:  # noqa: A002 - the API's name
    pipelines.activate(info.context.installation, key_of("Pipeline", input.id))
    return _saved(info, key_of("Pipeline", input.id))


def _deactivate(info: Info, input: PipelineIdInput) -> ActivatePipelinePayload:  # noqa: A002 - the API's name
    pipelines.deactivate(info.context.installation, key_of("Pipeline", input.id))
    return _saved(info, key_of("Pipeline", input.id))


def _validate(info: Info, input: ValidatePipelineInput) -> PipelineChecked:  # noqa: A002 - the API's name
    variables = json_object(input.variables, "variables")
    try:
        checked = pipelines.check(document(input.pipeline), info.context.installation.access, variables)
    except errors.DefinitionError as error:
        return PipelineChecked(valid=False, problems=problems_of(error.problems), order=[], unset_variables=[])
    unset = unset_variables(checked, variables)
    return PipelineChecked(valid=True, problems=[], order=list(checked.order()), unset_variables=unset)


def _saved(info: Info, pipeline_id: str) -> PipelineSaved:
    """The pipeline as it is now stored. Raises NotFoundError if it was deleted in the meantime."""
    row = pipelines.by_ids(info.context.installation, [pipeline_id]).get(pipeline_id)
    if row is None:
        raise errors.NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return PipelineSaved(pipeline=served(row))


@strawberry.type
class PipelineMutations:
    """Pipelines: create, update, delete, activate, deactivate and validate."""

    create_pipeline: CreatePipelinePayload = mutation(_create, "Create a pipeline.")
    update_pipeline: UpdatePipelinePayload = mutation(_update, "Update a pipeline: store its next revision.")
    delete_pipeline: DeletePipelinePayload = mutation(
        _delete, "Delete a pipeline. Refused while it has a live execution; its history is kept."
    )
    activate_pipeline: ActivatePipelinePayload = mutation(_activate, "Activate a pipeline so it can be started.")
    deactivate_pipeline: ActivatePipelinePayload = mutation(
        _deactivate, "Deactivate a pipeline: it cannot be started until it is activated again."
    )
    validate_pipeline: PipelineChecked = mutation(
        _validate, "Check a definition and report all its problems, without storing it.", role=Role.VIEWER
    )
