"""The mutations of pipelines, executions and decisions; each is recorded in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import strawberry
from strawberry.extensions import FieldExtension

from flexiroaster import errors
from flexiroaster.model.viewer import Role
from flexiroaster.service import pipelines
from flexiroaster.service.admin import audit
from flexiroaster.service.definition import check, unset_variables
from flexiroaster.service.executions import commands, executions
from flexiroaster.service.safety import decisions
from flexiroaster.service.safety.decisions import Action
from graphql_api.context import Info
from graphql_api.permissions import object_type, requires
from graphql_api.schema.errors import (
    BlockedError,
    ConflictError,
    DefinitionError,
    DefinitionProblem,
    InputError,
    NotAllowedError,
    NotFoundError,
    problems_of,
)
from graphql_api.schema.execution import Execution
from graphql_api.schema.inputs import PipelineChanges, PipelineInput, json_object, to_document
from graphql_api.schema.pipeline import Pipeline
from graphql_api.schema.relay import key_of, plain_key
from graphql_api.schema.safety import Decision
from graphql_api.schema.scalars import JSON, as_schema_type

__all__ = ["Mutation"]


# --- pipelines ---


@object_type(Role.VIEWER)
class PipelineSaved:
    """The pipeline as it is now stored."""

    pipeline: Pipeline


@object_type(Role.VIEWER)
class PipelineDeleted:
    """The pipeline no longer appears in lists; its executions and revisions are kept."""

    pipeline_id: str


@object_type(Role.VIEWER)
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


def _create(info: Info, input: CreatePipelineInput) -> CreatePipelinePayload:
    return _saved(info, pipelines.create(info.context.installation, to_document(input.pipeline)).id)


def _update(info: Info, input: UpdatePipelineInput) -> UpdatePipelinePayload:
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.update(info.context.installation, pipeline_id, to_document(input.changes), input.expected_revision)
    return _saved(info, pipeline_id)


def _delete(info: Info, input: PipelineIdInput) -> DeletePipelinePayload:
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.delete(info.context.installation, pipeline_id)
    return PipelineDeleted(pipeline_id=pipeline_id)


def _activate(info: Info, input: PipelineIdInput) -> ActivatePipelinePayload:
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.activate(info.context.installation, pipeline_id)
    return _saved(info, pipeline_id)


def _deactivate(info: Info, input: PipelineIdInput) -> ActivatePipelinePayload:
    pipeline_id = key_of("Pipeline", input.id)
    pipelines.deactivate(info.context.installation, pipeline_id)
    return _saved(info, pipeline_id)


def _validate(info: Info, input: ValidatePipelineInput) -> PipelineChecked:
    variables = json_object(input.variables, "variables")
    try:
        checked = check(to_document(input.pipeline), info.context.installation.access, variables)
    except errors.DefinitionError as error:
        return PipelineChecked(valid=False, problems=problems_of(error.problems), order=[], unset_variables=[])
    unset = unset_variables(checked, variables)
    return PipelineChecked(valid=True, problems=[], order=list(checked.order()), unset_variables=unset)


def _saved(info: Info, pipeline_id: str) -> PipelineSaved:
    """The pipeline as it is now stored. Raises NotFoundError if it was deleted in the meantime."""
    row = pipelines.by_ids(info.context.installation, [pipeline_id]).get(pipeline_id)
    if row is None:
        raise errors.NotFoundError(f"Pipeline not found: {pipeline_id}", pipeline_id=pipeline_id)
    return PipelineSaved(pipeline=as_schema_type(row))


# --- executions ---


@object_type(Role.VIEWER)
class ExecutionStarted:
    """The started execution. A repeated idempotency key returns the execution that its first use started."""

    execution: Execution


@object_type(Role.VIEWER)
class CommandAccepted:
    """The command is stored and will be carried out, even if a process crashes now.

    `execution` shows the state at this moment; its events report when the command has taken effect.
    """

    execution: Execution


@strawberry.input
class StartExecutionInput:
    """The pipeline to run, its variables, and the options of the start."""

    pipeline_id: strawberry.ID
    variables: JSON | None = strawberry.field(default=None, description="Values that override the pipeline's defaults.")
    idempotency_key: str | None = strawberry.field(
        default=None, description="Repeating a request with the same key returns the same execution, never a second."
    )
    triggered_by: str = "graphql"
    force: str | None = strawberry.field(
        default=None, description="The reason to start although the gate blocks the run or requires approval."
    )


@strawberry.input
class CommandInput:
    """The execution to act on, and the reason."""

    id: strawberry.ID
    reason: str = ""


@strawberry.input
class PauseExecutionInput:
    """The execution to pause, and how to pause it."""

    id: strawberry.ID
    reason: str = ""
    interrupt: bool = strawberry.field(
        default=False, description="Whether to interrupt running stages, which start over on resume; else they finish."
    )
    stop_after: float | None = strawberry.field(
        default=None, description="Seconds until the execution is stopped unless it is resumed."
    )


@strawberry.input
class RerunExecutionInput:
    """The execution to run again, and the stage to start from."""

    id: strawberry.ID
    from_stage: str = strawberry.field(
        description="Id of the stage to start from. It and all stages that depend on it run; other results are kept."
    )
    force: str | None = strawberry.field(
        default=None, description="The reason to start although the gate blocks the run or requires approval."
    )


StartExecutionPayload = Annotated[
    ExecutionStarted | NotFoundError | NotAllowedError | BlockedError | ConflictError | DefinitionError | InputError,
    strawberry.union("StartExecutionPayload", description="The started execution, or an error."),
]
RerunExecutionPayload = Annotated[
    ExecutionStarted | NotFoundError | NotAllowedError | BlockedError | ConflictError | InputError,
    strawberry.union("RerunExecutionPayload", description="The started execution, or an error."),
]
CommandPayload = Annotated[
    CommandAccepted | NotFoundError | NotAllowedError | ConflictError | InputError,
    strawberry.union("CommandPayload", description="The accepted command, or an error."),
]


def _start(info: Info, input: StartExecutionInput) -> StartExecutionPayload:
    installation = info.context.installation
    execution_id = executions.start(
        installation,
        key_of("Pipeline", input.pipeline_id),
        json_object(input.variables, "variables"),
        triggered_by=input.triggered_by,
        idempotency_key=input.idempotency_key,
        drive=installation.is_driving,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=_execution(info, execution_id))


def _rerun(info: Info, input: RerunExecutionInput) -> RerunExecutionPayload:
    installation = info.context.installation
    execution_id = executions.rerun(
        installation,
        key_of("Execution", input.id),
        input.from_stage,
        triggered_by="graphql",
        drive=installation.is_driving,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=_execution(info, execution_id))


def _pause(info: Info, input: PauseExecutionInput) -> CommandPayload:
    deadline = None if input.stop_after is None else timedelta(seconds=input.stop_after)
    return _request_command(info, input, partial(commands.pause, interrupt=input.interrupt, deadline=deadline))


def _command(request: Callable[..., None]) -> Callable[[Info, CommandInput], CommandPayload]:
    """A resolver that requests a command."""

    def resolve(info: Info, input: CommandInput) -> CommandPayload:
        return _request_command(info, input, request)

    return resolve


def _request_command(
    info: Info, input: CommandInput | PauseExecutionInput, request: Callable[..., None]
) -> CommandAccepted:
    context, execution_id = info.context, key_of("Execution", input.id)
    request(context.installation, execution_id, input.reason, requested_by=context.viewer.name)
    return CommandAccepted(execution=_execution(info, execution_id))


def _execution(info: Info, execution_id: str) -> Execution:
    return as_schema_type(executions.get(info.context.installation, execution_id))


# --- decisions ---


@strawberry.input
class OverrideDecisionInput:
    """The decision to override, the action to take instead, and the reason."""

    id: strawberry.ID
    action: Action
    reason: str = strawberry.field(description="Recorded in the execution's log and with the decision.")


OverrideDecisionPayload = Annotated[
    Decision | NotFoundError | NotAllowedError | ConflictError | InputError,
    strawberry.union("OverrideDecisionPayload", description="The decision with its override, or an error."),
]


def _override(info: Info, input: OverrideDecisionInput) -> OverrideDecisionPayload:
    context, decision_id = info.context, key_of("Decision", input.id)
    return as_schema_type(
        decisions.override(
            context.installation, decision_id, input.action, input.reason, requested_by=context.viewer.name
        )
    )


# --- the mutations ---


class _Audited(FieldExtension):
    """Records the viewer, the arguments and the outcome of a mutation, also if it is refused or fails."""

    def resolve(self, next_: Callable[..., Any], source: object, info: Info, **arguments: Any) -> Any:  # noqa: ANN401 - strawberry's signature
        context, given = info.context, to_document(arguments.get("input"))
        subject = given.get("id") or given.get("pipeline_id")
        with audit.recorded(
            context.installation,
            viewer=context.viewer,
            action=info.field_name,
            subject=None if subject is None else plain_key(str(subject)),
            arguments=given,
            request_id=context.request_id or None,
        ):
            return next_(source, info, **arguments)


def _mutation(resolver: Callable[..., Any], description: str, role: Role = Role.OPERATOR) -> Any:  # noqa: ANN401 - a field of the type it is assigned to
    """Return a mutation field that requires a role and is recorded in the audit log."""
    return strawberry.mutation(
        resolver=resolver, description=description, metadata=requires(role), extensions=[_Audited()]
    )


@strawberry.type
class Mutation:
    """All changes to pipelines, executions and decisions. The audit log records every mutation."""

    create_pipeline: CreatePipelinePayload = _mutation(_create, "Create a pipeline.")
    update_pipeline: UpdatePipelinePayload = _mutation(_update, "Update a pipeline: store its next revision.")
    delete_pipeline: DeletePipelinePayload = _mutation(
        _delete, "Delete a pipeline. Refused while it has a live execution; its history is kept."
    )
    activate_pipeline: ActivatePipelinePayload = _mutation(_activate, "Activate a pipeline so it can be started.")
    deactivate_pipeline: ActivatePipelinePayload = _mutation(
        _deactivate, "Deactivate a pipeline: it cannot be started until it is activated again."
    )
    validate_pipeline: PipelineChecked = _mutation(
        _validate, "Check a definition and report all its problems, without storing it.", role=Role.VIEWER
    )

    start_execution: StartExecutionPayload = _mutation(_start, "Start an execution of a pipeline.")
    stop_execution: CommandPayload = _mutation(
        _command(commands.stop),
        "Stop an execution: its running stages are asked to end, and killed after a grace period.",
    )
    pause_execution: CommandPayload = _mutation(
        _pause, "Pause an execution: no further stage starts until it is resumed."
    )
    resume_execution: CommandPayload = _mutation(_command(commands.resume), "Resume a paused execution.")
    retry_execution: CommandPayload = _mutation(
        _command(commands.retry),
        "Retry an execution: its failed, cancelled and skipped stages run again; completed ones keep their results.",
    )
    rerun_execution: RerunExecutionPayload = _mutation(
        _rerun, "Start a new execution that repeats this one from a given stage."
    )
    rollback_execution: CommandPayload = _mutation(
        _command(commands.rollback),
        "Roll back an execution: undo the external effects of its stages, in reverse order of their start.",
    )

    override_decision: OverrideDecisionPayload = _mutation(
        _override,
        "Override a decision with another action. Only the newest decision of an execution can be overridden, and only "
        "while the execution's state allows it. Like other commands, the override is stored now and carried out by the "
        "process that runs the execution.",
    )
