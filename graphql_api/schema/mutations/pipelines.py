"""Mutations of pipelines."""

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
from graphql_api.schema.ids import key_of
from graphql_api.schema.inputs import PipelineChanges, PipelineInput, document, json_object
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served
from graphql_api.schema.types.pipeline import Pipeline

__all__ = ["PipelineMutations"]


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineSaved:
    """The pipeline as it is stored now."""

    pipeline: Pipeline


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineDeleted:
    """It is gone from the lists; its executions and revisions are kept."""

    pipeline_id: str


@fields_require(Role.VIEWER)
@strawberry.type
class PipelineChecked:
    """What a definition would be answered with; nothing was stored."""

    valid: bool
    problems: list[DefinitionProblem]
    order: list[str] = strawberry.field(description="The stages in the order they may run; empty if it is not valid.")
    unset_variables: list[str] = strawberry.field(description="Variables that a start has to give a value.")


@strawberry.input
class CreatePipelineInput:
    """A new pipeline."""

    pipeline: PipelineInput


@strawberry.input
class UpdatePipelineInput:
    """Changes to a pipeline: its next revision. Executions keep the revision they started with."""

    id: strawberry.ID
    changes: PipelineChanges
    expected_revision: int | None = strawberry.field(
        default=None, description="Refuse with a conflict if it is at another revision by now."
    )


@strawberry.input
class PipelineIdInput:
    """The pipeline that is meant: its global id, or its `pipelineId`."""

    id: strawberry.ID


@strawberry.input
class ValidatePipelineInput:
    """A definition to check."""

    pipeline: PipelineInput
    variables: JSON | None = strawberry.field(default=None, description="As a start would give them.")


CreatePipelinePayload = Annotated[
    PipelineSaved | DefinitionError | NotFoundError | ConflictError | InputError,
    strawberry.union("CreatePipelinePayload", description="Stored, or why not."),
]
UpdatePipelinePayload = Annotated[
    PipelineSaved | DefinitionError | NotFoundError | ConflictError | InputError,
    strawberry.union("UpdatePipelinePayload", description="Stored, or why not."),
]
DeletePipelinePayload = Annotated[
    PipelineDeleted | NotFoundError | ConflictError | InputError,
    strawberry.union("DeletePipelinePayload", description="Deleted, or why not."),
]
ActivatePipelinePayload = Annotated[
    PipelineSaved | NotFoundError | InputError,
    strawberry.union("ActivatePipelinePayload", description="Done, or why not."),
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
    """The pipeline as it is stored now. Raises NotFoundError: somebody has just deleted it."""
    row = pipelines.by_ids(info.context.installation, [pipeline_id]).get(pipeline_id)
    if row is None:
        raise errors.NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return PipelineSaved(pipeline=served(row))


@strawberry.type
class PipelineMutations:
    """Pipelines: create, change, delete, switch on and off, check."""

    create_pipeline: CreatePipelinePayload = mutation(_create, "Store a new pipeline.")
    update_pipeline: UpdatePipelinePayload = mutation(_update, "Store the next revision of a pipeline.")
    delete_pipeline: DeletePipelinePayload = mutation(
        _delete, "Delete a pipeline; refused while an execution of it is live. Its history is kept."
    )
    activate_pipeline: ActivatePipelinePayload = mutation(_activate, "Let it be started again.")
    deactivate_pipeline: ActivatePipelinePayload = mutation(_deactivate, "Refuse starts until it is activated.")
    validate_pipeline: PipelineChecked = mutation(
        _validate, "Check a definition and find all its problems; nothing is stored.", role=Role.VIEWER
    )
