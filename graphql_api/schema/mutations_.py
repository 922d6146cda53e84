"""Mutations of executions: start, rerun, and the commands to a running or ended execution."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import strawberry

from flexiroaster.model.viewer import Role
from flexiroaster.service.executions import commands, executions
from graphql_api.context import Info
from graphql_api.permissions import fields_require
from graphql_api.schema.errors import (
    BlockedError,
    ConflictError,
    DefinitionError,
    InputError,
    NotAllowedError,
    NotFoundError,
)
from graphql_api.schema.inputs import json_object
from graphql_api.schema.mutations.mutation import mutation
from graphql_api.schema.relay import key_of
from graphql_api.schema.scalars import JSON
from graphql_api.schema.served import served
from graphql_api.schema.types.execution import Execution

__all__ = ["ExecutionMutations"]


@fields_require(Role.VIEWER)
@strawberry.type
class ExecutionStarted:
    """The started execution. A repeated idempotency key returns the execution that its first use started."""

    execution: Execution


@fields_require(Role.VIEWER)
@strawberry.type
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


def _start(info: Info, input: StartExecutionInput) -> StartExecutionPayload:  # noqa: A002 - the API's name
    installation = info.context.installation
    execution_id = executions.start(
        installation,
        key_of("Pipeline", input.pipeline_id),
        json_object(input.variables, "variables"),
        triggered_by=input.triggered_by,
        idempotency_key=input.idempotency_key,
        drive=installation.drives,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=served(executions.get(installation, execution_id)))


def _rerun(info: Info, input: RerunExecutionInput) -> RerunExecutionPayload:  # noqa: A002 - the API's name
    installation = info.context.installation
    execution_id = executions.rerun(
        installation,
        key_of("Execution", input.id),
        input.from_stage,
        triggered_by="graphql",
        drive=installation.drives,
        force=input.force,
        traceparent=info.context.traceparent,
    )
    return ExecutionStarted(execution=served(executions.get(installation, execution_id)))


def _pause(info: Info, input: PauseExecutionInput) -> CommandPayload:  # noqa: A002 - the API's name
    commands.pause(
        info.context.installation,
        key_of("Execution", input.id),
        input.reason,
        interrupt=input.interrupt,
        deadline=None if input.stop_after is None else timedelta(seconds=input.stop_after),
        requested_by=info.context.viewer.name,
    )
    return _accepted(info, input.id)


def _command(ask: Callable[..., None]) -> Callable[[Info, CommandInput], CommandPayload]:
    def resolve(info: Info, input: CommandInput) -> CommandPayload:  # noqa: A002 - the API's name
        context = info.context
        ask(context.installation, key_of("Execution", input.id), input.reason, requested_by=context.viewer.name)
        return _accepted(info, input.id)

    return resolve


def _accepted(info: Info, execution_id: strawberry.ID) -> CommandAccepted:
    row = executions.get(info.context.installation, key_of("Execution", execution_id))
    return CommandAccepted(execution=served(row))


@strawberry.type
class ExecutionMutations:
    """Executions: start, stop, pause, resume, retry, rerun and roll back."""

    start_execution: StartExecutionPayload = mutation(_start, "Start an execution of a pipeline.")
    stop_execution: CommandPayload = mutation(
        _command(commands.stop),
        "Stop an execution: its running stages are asked to end, and killed after a grace period.",
    )
    pause_execution: CommandPayload = mutation(
        _pause, "Pause an execution: no further stage starts until it is resumed."
    )
    resume_execution: CommandPayload = mutation(_command(commands.resume), "Resume a paused execution.")
    retry_execution: CommandPayload = mutation(
        _command(commands.retry),
        "Retry an execution: its failed, cancelled and skipped stages run again; completed ones keep their results.",
    )
    rerun_execution: RerunExecutionPayload = mutation(
        _rerun, "Start a new execution that repeats this one from a given stage."
    )
    rollback_execution: CommandPayload = mutation(
        _command(commands.rollback),
        "Roll back an execution: undo the external effects of its stages, in reverse order of their start.",
    )
